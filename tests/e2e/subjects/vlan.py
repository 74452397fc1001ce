"""VLANs as interfaces: tags on the wire, zones of their own, the kernel's VLAN devices.

    client  10.10.0.2 untagged ─┐
    guest   10.20.0.2 VLAN 20  ─┼─ lan0 10.10.0.1, lan0.20 10.20.0.1, lan0.30 10.30.0.1 [gateway]
    phone   10.30.0.2 VLAN 30  ─┘

Each VLAN N has 2001:db8:N::/64 too.
"""

from lab import vlan
from lab.policy import *
from lab.programs import Conversation, iperf3, ping, silent, tcp_ask, traceroute, udp_ask, wait_for
from runner import test

BOTH = (1, 2)
GUEST, GUEST6, GUEST_GW, GUEST_GW6 = '10.20.0.2', '2001:db8:20::2', '10.20.0.1', '2001:db8:20::1'
PHONE, PHONE6, PHONE_GW, PHONE_GW6 = '10.30.0.2', '2001:db8:30::2', '10.30.0.1', '2001:db8:30::1'


def policy(workers, **more):
    """Everybody may go out, the inside and phones to guests; guests nowhere else."""
    p = base(workers)
    p['interfaces'] = {
        'guests': {'device': 'lan0', 'vlan': 20, 'zone': 'guests'},
        'lan': {'device': 'lan0', 'zone': 'inside'},
        'phones': {'device': 'lan0', 'vlan': 30, 'zone': 'phones'},
        'wan': {'device': 'wan0', 'zone': 'outside'},
    }
    p['nat']['source'].insert(0, {'name': 'others', 'from': ['guests', 'phones'], 'to': 'outside',
                                  'match': {'family': 'ipv4'}, 'translate': 'masquerade'})
    p['policy']['rules'] += [
        {'name': 'out', 'match': {'from': ['guests', 'phones'], 'to': 'outside'}, 'action': 'accept'},
        {'name': 'to-guests', 'match': {'from': ['inside', 'phones'], 'to': 'guests'}, 'action': 'accept'},
    ]
    p.update(more)
    return p


def hosts(lab):
    """The hosts in VLANs 20 and 30 of the client's cable."""
    vlan.join(lab, lab.client, 'guest', 20, GUEST + '/24', GUEST6 + '/64')
    vlan.join(lab, lab.client, 'phone', 30, PHONE + '/24', PHONE6 + '/64')


def devices(lab):
    """The gateway's VLAN devices."""
    vlan.add_device(lab, 'lan0', 20, GUEST_GW + '/24', GUEST_GW6 + '/64')
    vlan.add_device(lab, 'lan0', 30, PHONE_GW + '/24', PHONE_GW6 + '/64')


def traffic(lab):
    """Every host reaches the outside, by its own zone's rules and translation."""
    for ns, own6 in ((lab.client, CLIENT6), (lab.guest, GUEST6), (lab.phone, PHONE6)):
        assert udp_ask(ns, SERVER)[0] == WAN, ns.short
        assert tcp_ask(ns, SERVER)[0] == WAN, ns.short
        assert udp_ask(ns, SERVER6)[0] == own6, ns.short
        assert tcp_ask(ns, SERVER6)[0] == own6, ns.short
        assert ping(ns, SERVER).received == 3, ns.short


def start(lab, **more):
    """Servers, VLANs and the gateway."""
    hosts(lab)
    devices(lab)
    for ns in (lab.server, lab.guest, lab.phone):
        lab.serve(ns)
    lab.gateway.start(policy(lab.workers, **more))


@test(workers=BOTH, rows=[('auto', 'auto'), ('generic', 'generic')], kernel=False, start=False)
def three_on_one_device(lab, row):
    """Untagged frames and two VLANs of one device are three interfaces, in native and in generic mode."""
    start(lab, io={'mode': row[1]})
    traffic(lab)
    for ns, address in ((lab.client, GUEST), (lab.phone, GUEST), (lab.phone, GUEST6)):
        assert udp_ask(ns, address)[0] in (CLIENT, PHONE, PHONE6)
        assert tcp_ask(ns, address)[0] in (CLIENT, PHONE, PHONE6)
    before = lab.gateway.dropped('policy')
    for address in (CLIENT, PHONE, PHONE6):
        assert silent(udp_ask, lab.guest, address, tries=1, wait=0.3), 'a guest reaches ' + address
    assert lab.gateway.dropped('policy') >= before + 3
    # The host's own traffic, on addresses that are translated (the wan's) and not.
    for ns, addresses in ((lab.gw, (GUEST, GUEST6, PHONE, CLIENT, SERVER)), (lab.guest, (GUEST_GW, GUEST_GW6, WAN)),
                          (lab.phone, (PHONE_GW, PHONE_GW6)), (lab.client, (LAN, LAN6))):
        for a in addresses:
            p = ping(ns, a)
            assert p.received == 3, '%s to %s: %s' % (ns.short, a, p.output)
    shown = {i['name']: i for i in lab.gateway.status()['interfaces']}
    assert [(n, i['device'], i.get('vlan')) for n, i in shown.items()] == \
        [('guests', 'lan0', 20), ('lan', 'lan0', None), ('phones', 'lan0', 30), ('wan', 'wan0', None)]
    for name, i in shown.items():
        assert i['up'] and i['queues'] and i['traffic']['rx_packets'] and i['traffic']['tx_packets'], (name, i)
    assert 'guests (lan0 VLAN 20, zone guests): up' in lab.gateway.cli('status').stdout
    assert shown['guests']['addresses'][0] == GUEST_GW + '/24'


@test(workers=BOTH, kernel=False, start=False)
def bulk_and_fragments(lab):
    """iperf3 both ways between VLANs and out of one, and datagrams in fragments."""
    start(lab)
    for client, server, address in ((lab.guest, lab.server, SERVER), (lab.phone, lab.guest, GUEST),
                                    (lab.phone, lab.guest, GUEST6)):
        for options in ([], ['-R']):
            report = iperf3(client, server, address, '-P', 4, *options, seconds=1)
            rate = report['sum_received']['bits_per_second'] / 1e6
            assert rate > 20, '%s to %s: %.0f Mbit/s %s' % (client.short, address, rate, options)
        p = ping(client, address, count=2, size=3000, wait=2)
        assert p.received == 2, p.output


@test(workers=BOTH, kernel=False, start=False)
def icmp_errors_and_mtu(lab):
    """What Sluice answers itself carries the VLAN's tag; the VLAN device's MTU is respected."""
    start(lab)
    assert traceroute(lab.guest, SERVER) == [GUEST_GW, SERVER]
    assert traceroute(lab.guest, SERVER6) == [GUEST_GW6, SERVER6]
    assert traceroute(lab.phone, GUEST) == [PHONE_GW, GUEST]
    lab.gw.ip('link', 'set', 'lan0.20', 'mtu', '1300')
    for ns, address, router in ((lab.phone, GUEST, PHONE_GW), (lab.phone, GUEST6, PHONE_GW6)):
        def too_big():
            out = ping(ns, address, count=1, size=1400, df=True, wait=0.3).output
            return '1300' in out and 'rom ' + router in out
        wait_for(too_big, 'a message of the MTU about ' + address, 5)
    p = ping(lab.phone, GUEST, count=2, size=1400)
    assert p.received == 2, p.output


@test(workers=BOTH, rows=[('auto', 'auto'), ('generic', 'generic')], kernel=False, start=False)
def tagged_outside(lab, row):
    """An outside that is a VLAN alone: translation, forwards, the host's own traffic; what is untagged is the kernel's."""
    far = vlan.join(lab, lab.server, 'far', 7, '192.0.2.2/24', '2001:db8:7::2/64')
    vlan.add_device(lab, 'wan0', 7, '192.0.2.1/24', '2001:db8:7::1/64')
    for ns in (far, lab.client2):
        lab.serve(ns)
    p = base(lab.workers)
    p['io'] = {'mode': row[1]}
    p['interfaces']['wan'] = {'device': 'wan0', 'vlan': 7, 'zone': 'outside'}
    for d in p['nat']['destination']:
        d['match']['destination'] = '192.0.2.1'
    lab.gateway.start(p)
    with Conversation(lab.client, '192.0.2.2') as c:
        assert c.ask()[0] == '192.0.2.1'
        assert udp_ask(lab.client, '192.0.2.2')[0] == '192.0.2.1'
        assert udp_ask(lab.client, '2001:db8:7::2')[0] == CLIENT6
        assert tcp_ask(far, '192.0.2.1', FORWARD_ECHO)[0] == '192.0.2.2'
        # The address is the clients' and the host's: its frames go to a worker, and back to the kernel with their tag.
        before = lab.gateway.metric('sluice_punted_packets_total')
        for ns, address in ((lab.gw, '192.0.2.2'), (far, '192.0.2.1')):
            q = ping(ns, address)
            assert q.received == 3, '%s: %s' % (ns.short, q.output)
        assert lab.gateway.metric('sluice_punted_packets_total') >= before + 6
        assert tcp_ask(lab.gw, '192.0.2.2')[0] == '192.0.2.1'
        assert c.ask()[0] == '192.0.2.1'
    # Not an interface of the policy: the host still has it, and nothing is forwarded there.
    assert ping(lab.gw, SERVER).received == 3 and ping(lab.server, WAN).received == 3
    assert ping(lab.client, SERVER, count=1, wait=0.3).received == 0


@test(workers=BOTH, kernel=False, start=False)
def device_made_later(lab):
    """Sluice starts without the kernel's VLAN device, says so, and takes it up when it is made, or made again."""
    hosts(lab)
    lab.serve(lab.server)
    vlan.add_device(lab, 'lan0', 30, PHONE_GW + '/24', PHONE_GW6 + '/64')
    lab.gateway.start(policy(lab.workers))
    assert 'interface guests: lan0 has no VLAN device with id 20: `ip link add link lan0 name lan0.20 type vlan id 20`' \
        in lab.gateway.log_text()
    assert silent(udp_ask, lab.guest, SERVER, tries=1, wait=0.3)
    assert not next(i for i in lab.gateway.status()['interfaces'] if i['name'] == 'guests')['up']
    for _ in range(2):
        vlan.add_device(lab, 'lan0', 20, GUEST_GW + '/24', GUEST_GW6 + '/64')
        wait_for(lambda: not silent(udp_ask, lab.guest, SERVER, tries=1, wait=0.3), 'VLAN 20 works')
        traffic(lab)
        lab.gw.ip('link', 'del', 'lan0.20')
        wait_for(lambda: lab.gateway.log_text().count('lan0 has no VLAN device with id 20') > 1, 'it is missed')
        assert silent(udp_ask, lab.guest, SERVER, tries=1, wait=0.3)
        assert udp_ask(lab.phone, SERVER)[0] == WAN


@test(workers=BOTH, kernel=False, start=False)
def other_vlans_are_the_kernels(lab):
    """A VLAN that is not in the policy reaches the host as if Sluice were not there, and is forwarded by nobody."""
    start(lab)
    other = vlan.join(lab, lab.client, 'other', 40, '10.40.0.2/24')
    vlan.add_device(lab, 'lan0', 40, '10.40.0.1/24')
    assert ping(other, '10.40.0.1').received == 3 and ping(lab.gw, '10.40.0.2').received == 3
    assert silent(udp_ask, other, SERVER, tries=1, wait=0.3)
    assert ping(lab.client, '10.40.0.2', count=1, wait=0.3).received == 0
    assert lab.gateway.dropped('egress_not_managed') >= 1
    traffic(lab)


@test(workers=BOTH, kernel=False, start=False)
def redirection_to_the_host(lab):
    """Connections from a VLAN that are redirected to the gateway get its answers."""
    hosts(lab)
    devices(lab)
    lab.serve(lab.gw, http=8081, echo=7000)
    p = policy(lab.workers)
    p['nat']['destination'] = [{'name': 'proxy', 'from': ['guests', 'inside'],
                                'match': {'protocol': ['tcp', 'udp'], 'port': ECHO}, 'translate': {'redirect': True, 'port': 7000}}]
    lab.gateway.start(p)
    for ns, own in ((lab.guest, GUEST), (lab.client, CLIENT)):
        assert tcp_ask(ns, SERVER)[0] == own
        assert udp_ask(ns, SERVER)[0] == own


@test(kernel=False, start=False)
def devices_without_tags(lab):
    """A device that never sees tags is refused."""
    lab.gw.ip('link', 'add', 'link', 'lan0', 'name', 'mv0', 'type', 'macvlan', 'mode', 'bridge')
    p = policy(1)
    p['interfaces']['guests']['device'] = 'mv0'
    status, text = lab.gateway.run_to_end(p)
    assert status == 1 and 'interface guests: mv0 gets its frames from another device, without their VLAN tags' in text
