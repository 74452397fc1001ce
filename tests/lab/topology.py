"""The laboratory: five hosts in namespaces and whatever runs on them.

    client  10.10.0.2 ─┐                                            ┌─ server  198.51.100.2
                       ├─ lan0 10.10.0.1 [gateway] 198.51.100.1 wan0 ┤
    client2 10.10.0.3 ─┘                                            └─ outside 198.51.100.3 ── 203.0.113.5

IPv6 is routed without translation: 2001:db8:10::/64 inside, 2001:db8:100::/64 outside, ...beef::5 behind
`outside`, which is also the gateway's default route. client2 and outside are macvlans on their neighbour's
interface, so that each side is one Ethernet segment with two hosts.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile

from . import policy as P
from .gateway import Sluice
from .kernel import Kernel
from .namespace import CommandFailed, Namespace, remove_stale, run
from .programs import wait_for

STEM = 'sluice'
_HERE = os.path.dirname(os.path.abspath(__file__))


class Lab:
    """Builds the namespaces; `with Lab(...) as lab:` removes them and ends every process in every case."""

    count = 0
    # Whether the hosts are containers.
    has_engine = False

    def __init__(self, queues=2, wan_mtu=1500, offload=True, backend='sluice'):
        remove_stale(STEM)
        Lab.count += 1
        self.prefix = '%s%d-%d-' % (STEM, os.getpid(), Lab.count)
        self.folder = tempfile.mkdtemp(prefix=self.prefix)
        self.queues, self.wan_mtu, self.offload = queues, wan_mtu, offload
        # What the gateway is started with again; None for what `base` says.
        self.policy_text = None
        # Set by tests in which packets are meant to leave untranslated.
        self.leaks_wanted = False
        self.hosts = {}
        try:
            self._build()
            self.gateway = (Kernel if backend == 'kernel' else Sluice)(self)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the gateway and everything else, removes namespaces and files."""
        if hasattr(self, 'gateway'):
            self.gateway.close()
        for ns in self.hosts.values():
            ns.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        """A file of this laboratory."""
        return os.path.join(self.folder, name)

    def host(self, name):
        """Makes a namespace that is reachable as an attribute of the laboratory."""
        ns = self.hosts[name] = Namespace(self.prefix, name)
        setattr(self, name, ns)
        return ns

    def _build(self):
        for name in ('client', 'client2', 'gw', 'server', 'outside'):
            self.host(name)
        self.cable('lan0', self.client, 1500)
        self.cable('wan0', self.server, self.wan_mtu)
        for parent, ns in ((self.client, self.client2), (self.server, self.outside)):
            parent.batch(['link add link eth0 name %s type macvlan mode bridge' % ns.short,
                          'link set %s netns %s name eth0' % (ns.short, ns.name)])
        for ns, *addresses in ((self.client, P.CLIENT + '/24', P.CLIENT6 + '/64'),
                               (self.client2, P.CLIENT2 + '/24', P.CLIENT2_6 + '/64'),
                               (self.server, P.SERVER + '/24', P.SERVER6 + '/64'),
                               (self.outside, P.OUTSIDE + '/24', P.OUTSIDE6 + '/64')):
            lines = ['link set eth0 up'] + ['addr add %s dev eth0' % a for a in addresses]
            inside = ns in (self.client, self.client2)
            lines += ['route add default via ' + P.LAN] if inside else []
            lines += ['route add default via ' + (P.LAN6 if inside else P.WAN6)]
            ns.batch(lines)
        self.outside.batch(['addr add %s/32 dev lo' % P.REMOTE, 'addr add %s/128 dev lo' % P.REMOTE6])
        self.gateway_addresses('lan0')
        self.gateway_addresses('wan0')
        for ns in (self.server, self.outside):
            self.watch(ns, 'leaked', 'ip saddr ' + P.LAN_NET)

    def cable(self, port, ns, mtu):
        """Lays a veth between a port of the gateway and eth0 of a host."""
        queues = 'numtxqueues %d numrxqueues %d' % (self.queues, self.queues)
        run('ip', '-n', self.gw.name, *('link add %s mtu %d %s type veth peer name eth0 mtu %d %s netns %s'
                                        % (port, mtu, queues, mtu, queues, ns.name)).split())
        if not self.offload:
            ns.run('ethtool', '-K', 'eth0', 'tx', 'off')

    def gateway_addresses(self, port):
        """Gives a port of the gateway its addresses, and the routes that lead through it."""
        a4, a6 = (P.LAN, P.LAN6) if port == 'lan0' else (P.WAN, P.WAN6)
        lines = ['link set %s up' % port, 'addr add %s/24 dev %s' % (a4, port), 'addr add %s/64 dev %s' % (a6, port)]
        if port == 'wan0':
            lines += ['route add default via %s' % P.OUTSIDE, 'route add default via %s' % P.OUTSIDE6]
        self.gw.batch(lines)

    def serve(self, ns, http=P.HTTP, echo=P.ECHO):
        """Starts the HTTP and echo servers on a host."""
        folder = self.path(ns.short + '-files')
        os.makedirs(folder, exist_ok=True)
        ns.start(sys.executable, os.path.join(_HERE, 'server.py'), http, echo, folder, log=self.path(ns.short + '.log'))
        wait_for(lambda: listens(ns, echo), 'the servers on ' + ns.short)
        return folder

    def watch(self, ns, name, match):
        """Counts packets that a host receives, by a match in nft's language; `watched` tells how many."""
        ns.nft('''
            table inet watch {
              counter %s { }
              chain %s { type filter hook prerouting priority -500
                %s counter name %s
              }
            }''' % (name, name, match, name))

    def watched(self, ns, name):
        """How many packets a `watch` has seen."""
        words = ns.run('nft', 'list', 'counter', 'inet', 'watch', name).stdout.split()
        return int(words[words.index('packets') + 1])

    def leaked(self):
        """How many packets reached the outside with an address of the inside."""
        return sum(self.watched(ns, 'leaked') for ns in (self.server, self.outside))

    def bad_checksums(self):
        """What the hosts' kernels received with a wrong checksum, by host and protocol."""
        bad = {}
        for name, ns in self.hosts.items():
            if name != 'gw':
                for key, n in _checksum_errors(ns).items():
                    if n:
                        bad['%s %s' % (name, key)] = n
        return bad

    def logs(self):
        """The end of every log of this laboratory, for the report of a failed test."""
        out = []
        for name in sorted(os.listdir(self.folder)):
            path = self.path(name)
            if name.endswith('.log') and os.path.getsize(path):
                with open(path, errors='replace') as f:
                    out.append('--- %s\n%s' % (name, ''.join(f.readlines()[-40:]).rstrip()))
        # A daemon that does not answer is not to hide why the test failed.
        counted = []
        with contextlib.suppress(CommandFailed):
            counted = self.gateway.counted()
        if counted:
            out.append('--- counted\n' + '\n'.join(counted))
        return '\n'.join(out)


def listens(ns, port):
    return ns.run('ss', '-Hltn', 'sport = :%d' % port).stdout.strip() and \
        ns.run('ss', '-Hlun', 'sport = :%d' % port).stdout.strip()


def _checksum_errors(ns):
    errors = {}
    for file in ('snmp', 'snmp6'):
        with ns, open('/proc/thread-self/net/' + file) as f:
            lines = f.read().splitlines()
        if file == 'snmp':
            for names, values in zip(lines[::2], lines[1::2]):
                names, values = names.split(), values.split()
                errors.update({'%s InCsumErrors' % names[0][:-1]: int(v) for n, v in zip(names, values)
                               if n == 'InCsumErrors'})
        else:
            errors.update({line.split()[0]: int(line.split()[1]) for line in lines if 'InCsumErrors' in line})
    return errors


def exit_on_signals():
    """Turns SIGTERM into SystemExit, so that `with Lab()` cleans up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
