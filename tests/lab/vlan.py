"""VLANs on the laboratory's cables: hosts that live in one, and the gateway's VLAN devices.

Where the kernel has no VLAN driver the gateway gets a veth in its place, named like the VLAN device, and programs
of traffic control (vlan.bpf.c) between its far end and the port.
"""

import json
import os
import platform

from .namespace import run

_HERE = os.path.dirname(os.path.abspath(__file__))


def join(lab, parent, name, vlan, *addresses):
    """Makes a host beside `parent`, on its cable, whose frames are all the VLAN's; its gateways are x.x.x.1 and x::1."""
    ns = lab.host(name)
    # A veth carries tags beside the frame unless it is told not to.
    parent.run('ethtool', '-K', 'eth0', 'txvlan', 'off')
    parent.batch(['link add link eth0 name %s type macvlan mode bridge' % name,
                  'link set %s netns %s name eth0' % (name, ns.name)])
    ns.batch(['link set eth0 up'] + ['addr add %s dev eth0' % a for a in addresses])
    program = _compile(lab, name, VLAN=vlan)
    _filter(ns, 'eth0', 'egress', program, 'host_out')
    _filter(ns, 'eth0', 'ingress', program, 'host_in')
    for a in addresses:
        separator = ':' if ':' in a else '.'
        ns.ip('route', 'add', 'default', 'via', a.split('/')[0].rpartition(separator)[0] + separator + '1')
    return ns


def add_device(lab, port, vlan, *addresses):
    """Gives the gateway a VLAN device on one of its ports, and addresses to that; returns its name."""
    name = '%s.%d' % (port, vlan)
    real = lab.gw.run('ip', 'link', 'add', 'link', port, 'name', name, 'type', 'vlan', 'id', vlan, check=False)
    if real.returncode:
        _stand_in(lab, port, vlan, name)
    lab.gw.batch(['link set %s up' % name] + ['addr add %s dev %s' % (a, name) for a in addresses])
    return name


def _stand_in(lab, port, vlan, name):
    gw, far = lab.gw, 'far%d' % vlan
    parent = _link(gw, port)
    gw.ip('link', 'add', name, 'address', parent['address'], 'type', 'veth', 'peer', 'name', far)
    # The far end is no interface of the host.
    gw.sysctl({'net.ipv6.conf.%s.disable_ipv6' % far: 1})
    gw.ip('link', 'set', far, 'up')
    program = _compile(lab, name, VLAN=vlan, PARENT=parent['ifindex'], DEVICE=_link(gw, far)['ifindex'])
    _filter(gw, far, 'ingress', program, 'device_out')
    _filter(gw, port, 'ingress', program, 'device_in', vlan)


def _link(ns, device):
    return json.loads(ns.ip('-j', 'link', 'show', device))[0]


def _filter(ns, device, direction, program, section, preference=1):
    ns.run('tc', 'qdisc', 'add', 'dev', device, 'clsact', check=False)
    # One of a device that has gone would come first.
    ns.run('tc', 'filter', 'del', 'dev', device, direction, 'pref', preference, check=False)
    ns.run('tc', 'filter', 'add', 'dev', device, direction, 'pref', preference, 'bpf', 'direct-action', 'object-file',
           program, 'section', 'classifier/' + section)


def _compile(lab, name, **values):
    out = lab.path(name + '.bpf.o')
    run(os.environ.get('CLANG', 'clang'), '-target', 'bpf', '-O2', '-g', '-Wall', '-Werror',
        '-I/usr/include/%s-linux-gnu' % platform.machine(), *('-D%s=%d' % v for v in values.items()),
        '-c', os.path.join(_HERE, 'vlan.bpf.c'), '-o', out)
    return out
