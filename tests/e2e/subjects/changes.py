"""What the kernel tells while traffic flows: neighbours, links, routes, addresses."""

import os

from lab.namespace import CommandFailed
from lab.policy import *
from lab.programs import Conversation, curl, ping, silent, tcp_ask, udp_ask, udp_socket, url, wait_for
from runner import test

BOTH = (1, 2)


def answered(ask, *arguments, seconds=10):
    """Waits until a question is answered, and returns the answer."""
    def attempt():
        try:
            return ask(*arguments, **({'tries': 1, 'wait': 0.2} if ask is udp_ask else {'timeout': 0.5}))
        except OSError:
            return None
    return wait_for(attempt, '%s %s' % (ask.__name__, arguments[1:]), seconds)


@test(workers=BOTH)
def first_packet_waits_for_the_neighbour(lab):
    """A packet to a host whose Ethernet address is not known yet is not lost, in either family."""
    for address in (SERVER, SERVER6, REMOTE, REMOTE6):
        lab.gw.ip('neigh', 'flush', 'dev', 'wan0')
        p = ping(lab.client, address, count=1, wait=3)
        assert p.received == 1, '%s: %s' % (address, p.output)


@test(workers=BOTH, rows=[('v4', SERVER), ('v6', SERVER6)])
def silent_neighbour(lab, row):
    """A host that does not answer ARP or ND is unreachable; when it answers, traffic flows."""
    lab.serve(lab.server)
    lab.server.sysctl({'net.ipv4.conf.eth0.arp_ignore': 8})
    lab.server.nft('''
        table inet mute {
          chain in { type filter hook input priority 0
            icmpv6 type nd-neighbor-solicit drop
          }
        }''')
    lab.gw.ip('neigh', 'flush', 'dev', 'wan0')
    # The packet waits for three questions in vain; then its sender is told.
    p = ping(lab.client, row[1], count=1, wait=8)
    assert p.received == 0, p.output
    assert 'nreachable' in p.output, 'the client is not told: ' + p.output
    if lab.gateway.name == 'sluice':
        dropped = lab.gateway.dropped('neighbour_unresolved')
        assert dropped >= 1, 'neighbour_unresolved: %d' % dropped
    lab.server.sysctl({'net.ipv4.conf.eth0.arp_ignore': 0})
    lab.server.nft('delete table inet mute')
    answered(udp_ask, lab.client, row[1])


@test(workers=BOTH)
def neighbour_changes_its_address(lab):
    """A host that comes back with another Ethernet address is followed by connections that exist."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER) as c:
        c.ask()
        lab.server.ip('link', 'set', 'eth0', 'address', '02:00:00:00:be:ef')
        # arp(7): the kernel changes an entry at most once in `locktime`, one second.
        wait_for(lambda: ping(lab.server, WAN, count=1).received == 1 and
                 '02:00:00:00:be:ef' in lab.gw.ip('neigh', 'show', SERVER), 'the gateway learns the new address')
        assert c.ask()[0] == WAN


@test(workers=BOTH)
def carrier_lost(lab):
    """The cable of the outside is pulled and plugged in again: connections go on."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER, timeout=15) as c:
        c.ask()
        lab.server.ip('link', 'set', 'eth0', 'down')
        assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.5)
        lab.server.batch(['link set eth0 up', 'addr replace %s/64 dev eth0' % SERVER6,
                          'route replace default via ' + WAN6])
        answered(udp_ask, lab.client, SERVER)
        assert c.ask()[0] == WAN
    answered(udp_ask, lab.client, SERVER6)


@test(workers=BOTH)
def port_down_and_up(lab):
    """`ip link set wan0 down` and up on the gateway: connections go on."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER, timeout=15) as c:
        c.ask()
        lab.gw.ip('link', 'set', 'wan0', 'down')
        assert silent(udp_ask, lab.client, SERVER, tries=1, wait=0.5)
        # The kernel has removed the IPv6 addresses and all routes over the link.
        lab.gw.ip('addr', 'flush', 'dev', 'wan0')
        lab.gateway_addresses('wan0')
        answered(udp_ask, lab.client, SERVER)
        if lab.gateway.name == 'sluice':
            assert c.ask()[0] == WAN
    answered(udp_ask, lab.client, SERVER6)


@test(workers=BOTH, kernel=False)
def port_vanishes_and_returns(lab):
    """The outside interface is deleted and made again under the same name: Sluice takes it up again."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER, timeout=20) as c:
        c.ask()
        lab.gw.ip('link', 'del', 'wan0')
        wait_for(lambda: 'wan0' not in lab.gw.ip('link'), 'wan0 is gone')
        assert silent(udp_ask, lab.client, SERVER, tries=2, wait=0.5)
        assert ping(lab.client, LAN).received == 3, 'the gateway does not answer on the inside'
        lab.cable('wan0', lab.server, 1500)
        lab.server.batch(['link set eth0 up', 'addr add %s/24 dev eth0' % SERVER, 'addr add %s/64 dev eth0' % SERVER6,
                          'route add default via ' + WAN6])
        lab.gateway_addresses('wan0')
        answered(udp_ask, lab.client, SERVER, seconds=15)
        answered(udp_ask, lab.client, SERVER6, seconds=15)
        assert c.ask()[0] == WAN
    assert lab.gateway.cli('status', check=False).returncode == 0


def name_of(ns, address):
    """What a server's file `name` says; None when the connection fails, as it may while its route changes."""
    try:
        return curl(ns, url(address, path='/name'), timeout=5)
    except CommandFailed:
        return None


@test(workers=BOTH)
def route_replaced(lab):
    """`ip route replace` leads packets to another router, also those of connections that exist."""
    lab.server.batch(['addr add %s/32 dev lo' % REMOTE, 'addr add %s/128 dev lo' % REMOTE6])
    for ns in (lab.server, lab.outside):
        lab.serve(ns)
        with open(os.path.join(lab.path(ns.short + '-files'), 'name'), 'w') as f:
            f.write(ns.short)
        lab.watch(ns, 'asked', 'udp dport %d' % ECHO)
    for remote, routers in ((REMOTE, (SERVER, OUTSIDE)), (REMOTE6, (SERVER6, OUTSIDE6))):
        assert name_of(lab.client, remote) == 'outside'
        for router, ns in zip(routers, (lab.server, lab.outside)):
            lab.gw.ip('route', 'replace', 'default', 'via', router)
            wait_for(lambda: name_of(lab.client, remote) == ns.short, 'the new route is followed', 5)
    with udp_socket(lab.client) as s:
        seen = udp_ask(lab.client, REMOTE, sock=s)
        before = lab.watched(lab.server, 'asked')
        lab.gw.ip('route', 'replace', 'default', 'via', SERVER)
        wait_for(lambda: udp_ask(lab.client, REMOTE, sock=s) == seen and lab.watched(lab.server, 'asked') > before,
                 'a connection that exists follows the new route', 5)


@test(workers=BOTH)
def multipath(lab):
    """A route with two next hops: every connection works, and stays on its path."""
    lab.server.batch(['addr add %s/32 dev lo' % REMOTE, 'addr add %s/128 dev lo' % REMOTE6])
    lab.serve(lab.server)
    lab.serve(lab.outside)
    lab.gw.ip('route', 'replace', 'default', 'nexthop', 'via', SERVER, 'nexthop', 'via', OUTSIDE)
    lab.gw.ip('-6', 'route', 'replace', 'default', 'nexthop', 'via', SERVER6, 'nexthop', 'via', OUTSIDE6)
    for ns in (lab.client, lab.client2):
        for remote in (REMOTE, REMOTE6):
            for _ in range(5):
                with Conversation(ns, remote) as c:
                    for _ in range(5):
                        c.ask()


@test(rows=[('v4', '192.0.2.0/24', '192.0.2.1'), ('v6', '2001:db8:dead::/48', '2001:db8:dead::1')])
def refusing_routes(lab, row):
    """`unreachable` and `prohibit` routes are answered with ICMP, `blackhole` is silent; removal is followed."""
    _, net, address = row
    for kind, words in (('unreachable', 'nreachable'), ('prohibit', 'iltered|rohibited'), ('blackhole', None)):
        lab.gw.ip('route', 'add', kind, net)

        def outcome():
            p = ping(lab.client, address, count=1, wait=0.5)
            return (any(w in p.output for w in words.split('|')) if words else '+' not in p.output) and not p.received
        wait_for(outcome, 'a route of type ' + kind, 5)
        lab.gw.ip('route', 'del', kind, net)


@test(workers=BOTH)
def masquerade_address_changes(lab):
    """New connections take the interface's new address."""
    lab.serve(lab.server)
    assert udp_ask(lab.client, SERVER)[0] == WAN
    lab.gw.batch(['addr add 198.51.100.20/24 dev wan0', 'addr del %s/24 dev wan0' % WAN])
    # Deleting the first address removes the second of the same network too, unless promoted.
    lab.gw.batch(['addr replace 198.51.100.20/24 dev wan0', 'route replace default via ' + OUTSIDE])
    wait_for(lambda: answered(udp_ask, lab.client, SERVER)[0] == '198.51.100.20', 'the new address is used', 5)
    assert tcp_ask(lab.client, SERVER)[0] == '198.51.100.20'


@test(workers=BOTH)
def mtu_changes(lab):
    """A smaller MTU on the outside interface is respected at once."""
    p = ping(lab.client, SERVER, count=1, size=1400, df=True)
    assert p.received == 1, p.output
    lab.gw.ip('link', 'set', 'wan0', 'mtu', '1300')
    wait_for(lambda: '1300' in ping(lab.client, SERVER, count=1, size=1400, df=True, wait=0.3).output,
             'fragmentation needed, MTU 1300', 5)
