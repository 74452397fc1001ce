"""Redirection to the gateway host: its own servers answer what clients send elsewhere, and nobody notices."""

import contextlib
import os
import time

from lab.policy import *
from lab.programs import Conversation, curl, dig, families, ping, serve_dns, sha256, silent, tcp_ask, udp_ask, \
    udp_socket, url, wait_for
from runner import test

BOTH = (1, 2)
PROXY = 3128


def with_redirect(workers, *rules):
    """The usual policy with redirections of what comes from inside."""
    policy = base(workers)
    policy['nat']['destination'] = [dict({'name': 'r%d' % i, 'from': 'inside'}, **r) for i, r in enumerate(rules)] \
        + policy['nat']['destination']
    return policy


DNS = {'match': {'port': 53}, 'translate': 'redirect'}
WEB = {'match': {'protocol': 'tcp', 'port': 80}, 'translate': {'redirect': True, 'port': PROXY}}
ECHO_HERE = {'match': {'port': ECHO}, 'translate': 'redirect'}


@test(workers=BOTH, start=False)
def dns(lab):
    """Questions to any server are answered by the gateway's own, from the address that was asked."""
    lab.gateway.start(with_redirect(lab.workers, DNS))
    serve_dns(lab.gw, lab.path('dnsmasq.log'), listen=[LAN, LAN6])
    for _ in range(5):
        for address in (SERVER, SERVER6, REMOTE, REMOTE6, LAN, LAN6):
            for options in ([], ['+tcp']):
                answers, _ = dig(lab.client, address, 'www.example.test', *options)
                assert answers == ['192.0.2.80'], '%s from %s %s' % (answers, address, options)
    if lab.gateway.name == 'sluice':
        assert lab.gateway.translates_answers() == ['lan0', 'wan0']


@test(workers=BOTH, start=False)
def transparent_proxy(lab):
    """HTTP to any address meets the gateway's server on another port, which sees the client's own address."""
    lab.gateway.start(with_redirect(lab.workers, WEB))
    lab.serve(lab.gw, http=PROXY, echo=9)
    lab.serve(lab.server)
    for client, own, servers in ((lab.client, CLIENT, (SERVER, REMOTE, '192.0.2.9')),
                                 (lab.client2, CLIENT2_6, (SERVER6, REMOTE6))):
        for address in servers:
            assert curl(client, url(address)).split()[0] == own
    # Other ports are routed as ever.
    assert udp_ask(lab.client, SERVER)[0] == WAN


@test(workers=BOTH, start=False)
def bulk(lab):
    """Downloads from and uploads to the gateway's server behind a redirection, with offloads on."""
    lab.gateway.start(with_redirect(lab.workers, WEB))
    folder = lab.serve(lab.gw, http=PROXY, echo=9)
    with open(os.path.join(folder, 'file'), 'wb') as f:
        f.write(os.urandom(1 << 20) * 8)
    for address in (SERVER, SERVER6):
        got, = lab.path('got'),
        curl(lab.client, '-o', got, url(address, path='/file'))
        with open(got, 'rb') as a, open(os.path.join(folder, 'file'), 'rb') as b:
            assert a.read() == b.read(), 'the file from %s differs' % address
        digest = curl(lab.client, '-T', got, url(address, path='/up'))
        assert digest.strip() == sha256(got), 'the file to %s differs' % address


@test(workers=BOTH, start=False)
def one_source_port(lab):
    """One socket asks several servers, the gateway by its own address among them, and can tell the answers apart."""
    lab.gateway.start(with_redirect(lab.workers, ECHO_HERE))
    lab.serve(lab.gw)
    for servers in ((SERVER, REMOTE, OUTSIDE, LAN), (SERVER6, REMOTE6, OUTSIDE6, LAN6)):
        own = CLIENT6 if ':' in servers[0] else CLIENT
        with contextlib.closing(udp_socket(lab.client, ('', 5000), families(servers[0]))) as s:
            for _ in range(10):
                ports = set()
                for address in servers:
                    seen = udp_ask(lab.client, address, sock=s)  # checks who has answered
                    assert seen[0] == own
                    ports.add(seen[1])
                assert len(ports) == len(servers) and 5000 in ports, ports
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Conversation(lab.client, a, source_port=5001)) for a in servers]
            for _ in range(10):
                assert len({t.ask()[1] for t in talks}) == len(talks)


@test(workers=BOTH, start=False, rows=(('translated', LAN), ('host', LAN6)))
def one_port_direct(lab, row):
    """A connection to the gateway itself from the port of a redirected one lives on when that one has gone."""
    _, own = row
    server, other = (SERVER6, REMOTE6) if ':' in own else (SERVER, REMOTE)
    lab.gateway.start(with_redirect(lab.workers, ECHO_HERE))
    lab.serve(lab.gw)
    with contextlib.closing(udp_socket(lab.client, ('', 5003), families(own))) as s:
        assert udp_ask(lab.client, server, sock=s)[1] == 5003
        moved = udp_ask(lab.client, own, sock=s)
        with Conversation(lab.client, server, source_port=5004) as c:
            assert c.ask()[1] == 5004
            with Conversation(lab.client, own, source_port=5004) as direct:
                before = direct.ask()
                c.close()
                if lab.gateway.name == 'sluice':
                    def gone():
                        # A late segment of the closed connection takes it up again.
                        lab.gateway.cli('conntrack', 'delete', '-d', server)
                        return not lab.gateway.conntrack('-d', server)

                    wait_for(gone, 'no connection to ' + server)
                for _ in range(5):
                    assert direct.ask() == before
                    assert udp_ask(lab.client, own, sock=s) == moved
        # Whoever comes next has the port, unless the deleted connection still has it.
        assert lab.gateway.name != 'sluice' or udp_ask(lab.client, other, sock=s)[1] == 5003


@test(workers=BOTH, start=False, rows=[('1500',), ('1280',)])
def fragments(lab, row):
    """Questions and answers of 4000 bytes over UDP arrive, in fragments."""
    lab.gw.batch(['link set lan0 mtu ' + row[0]])
    lab.client.batch(['link set eth0 mtu ' + row[0]])
    lab.gateway.start(with_redirect(lab.workers, ECHO_HERE))
    lab.serve(lab.gw)
    for address in (SERVER, SERVER6):
        with contextlib.closing(udp_socket(lab.client, ('', 0), families(address))) as s:
            s.settimeout(3)
            for n in range(8):
                question = bytes([65 + n]) * 4000
                s.sendto(question, (address, ECHO))
                data, peer = s.recvfrom(65536)
                assert peer[0] == address and data.split(b' ', 2)[2] == question, (peer, len(data))
    assert ping(lab.client, LAN, size=4000).received == 3


@test(workers=BOTH, start=False)
def closed_port(lab):
    """Nobody listens: TCP is refused at once, and a UDP socket hears of it from the server it knows."""
    lab.gateway.start(with_redirect(lab.workers, ECHO_HERE))
    for address in (SERVER, SERVER6):
        began = time.monotonic()
        try:
            tcp_ask(lab.client, address)
            raise AssertionError('connected to nobody')
        except ConnectionRefusedError:
            assert time.monotonic() - began < 1
        # The second socket's port is moved, so the quoted packet is translated back in all its parts.
        other = REMOTE6 if ':' in address else REMOTE
        with contextlib.closing(udp_socket(lab.client, ('', 5002), families(address))) as a, \
                contextlib.closing(udp_socket(lab.client, ('', 0), families(address))) as b:
            a.sendto(b'x', (other, ECHO))
            b.connect((address, ECHO))
            b.settimeout(3)
            try:
                b.send(b'x')
                b.recv(100)
                raise AssertionError('an answer from nobody')
            except ConnectionRefusedError:
                pass
            del a
        with contextlib.closing(udp_socket(lab.client, ('', 5002), families(address))) as c:
            c.connect((address, ECHO))
            c.settimeout(3)
            try:
                c.send(b'x')
                c.recv(100)
                raise AssertionError('an answer from nobody')
            except ConnectionRefusedError:
                pass


@test(workers=BOTH, start=False)
def echo_requests(lab):
    """A redirection of ICMP: the gateway answers pings to whatever address."""
    lab.gateway.start(with_redirect(
        lab.workers, {'match': {'protocol': ['icmp', 'icmpv6']}, 'translate': 'redirect'}))
    for address in (SERVER, '192.0.2.9', SERVER6, '2001:db8:9::9'):
        for size in (56, 3000):
            p = ping(lab.client, address, size=size)
            assert p.received == 3, p.output


@test(workers=BOTH, start=False)
def clients_errors(lab):
    """A client's ICMP error about a redirected connection reaches the gateway's own socket."""
    lab.gateway.start(with_redirect(lab.workers, ECHO_HERE))
    for address in (SERVER, SERVER6):
        family = families(address)
        with contextlib.closing(udp_socket(lab.gw, ('', ECHO), family)) as server:
            server.settimeout(3)
            with contextlib.closing(udp_socket(lab.client, ('', 0), family)) as c:
                c.sendto(b'x', (address, ECHO))
                _, peer = server.recvfrom(100)
            # Nobody has the client's port any more.
            server.connect(peer)
            server.send(b'late')
            try:
                server.recv(100)
                raise AssertionError('an answer from nobody')
            except ConnectionRefusedError:
                pass


@test(workers=BOTH, start=False)
def host_firewall(lab):
    """The host's own INPUT rules decide about redirected connections; Sluice's forward rules are not asked."""
    policy = with_redirect(lab.workers, WEB, ECHO_HERE)
    policy['policy']['rules'] = []
    lab.gateway.start(policy)
    lab.gw.nft('''table inet host {
                    chain input {
                      type filter hook input priority filter; policy drop
                      iifname lo accept
                      icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                      ct state established,related accept
                      iifname "lan0" ip saddr %s tcp dport %d accept
                    }
                  }''' % (CLIENT, PROXY))
    lab.serve(lab.gw, http=PROXY)
    assert curl(lab.client, url(SERVER)).split()[0] == CLIENT
    assert silent(tcp_ask, lab.client, SERVER, timeout=0.5), 'a port that the host closes is open'
    assert silent(tcp_ask, lab.client2, SERVER, 80, timeout=0.5), 'a client that the host refuses is served'


@test(workers=BOTH, start=False, kernel=False)
def direct_connections(lab):
    """The gateway's own services, reached by its own address, work beside the redirections, on the same ports too."""
    lab.gateway.start(with_redirect(lab.workers, DNS, WEB, ECHO_HERE))
    serve_dns(lab.gw, lab.path('dnsmasq.log'), listen=[LAN, LAN6, WAN, WAN6])
    lab.serve(lab.gw, http=PROXY)
    with Conversation(lab.client, LAN) as direct, Conversation(lab.client, SERVER) as redirected:
        for _ in range(5):
            assert direct.ask()[0] == redirected.ask()[0] == CLIENT
            assert dig(lab.client, LAN, 'www.example.test')[0] == ['192.0.2.80']
            assert dig(lab.server, WAN, 'www.example.test')[0] == ['192.0.2.80']
            assert curl(lab.client, url(LAN, PROXY)).split()[0] == CLIENT
            assert curl(lab.client, url(SERVER)).split()[0] == CLIENT
            assert udp_ask(lab.client, LAN)[0] == CLIENT


@test(workers=BOTH, start=False, kernel=False)
def local_target(lab):
    """A translation to an address of the gateway is a redirection, whichever interface has the address."""
    policy = with_redirect(
        lab.workers, {'match': {'protocol': 'tcp', 'port': 80, 'destination': SERVER},
                      'translate': {'to': WAN, 'port': PROXY}})
    lab.gateway.start(policy)
    lab.serve(lab.gw, http=PROXY, echo=9)
    assert curl(lab.client, url(SERVER)).split()[0] == CLIENT
    assert lab.gateway.translates_answers() == ['lan0', 'wan0']


@test(workers=BOTH, start=False, kernel=False)
def listing(lab):
    """The connections are listed with their state, as replied to, and go when they end."""
    lab.gateway.start(with_redirect(lab.workers, ECHO_HERE, WEB))
    lab.serve(lab.gw, http=PROXY)

    def line(*words):
        return lab.gateway.conntrack(*words)

    with Conversation(lab.client, SERVER) as c:
        c.ask()
        lines = wait_for(lambda: [x for x in line('--proto', 'tcp') if 'ASSURED' in x], 'an assured connection')
        assert len(lines) == 1 and ' ESTABLISHED src=%s dst=%s ' % (CLIENT, SERVER) in lines[0] and \
            ' src=%s dst=%s ' % (LAN, CLIENT) in lines[0] and 'UNREPLIED' not in lines[0], lines
        assert 431000 < int(lines[0].split()[2]) <= 432000, lines
    wait_for(lambda: [x for x in line('--proto', 'tcp') if 'TIME_WAIT' in x], 'a connection that both ends closed')
    udp_ask(lab.client, SERVER)
    wait_for(lambda: [x for x in line('--proto', 'udp') if 'UNREPLIED' not in x], 'an answered datagram')
    # Reset by the host: nothing of it is left to wait for days.
    with Conversation(lab.client, REMOTE) as c:
        c.ask()
        lab.gw.run('ss', '-K', 'sport = :%d' % ECHO, 'dst', CLIENT)
        wait_for(lambda: [x for x in line('--proto', 'tcp', '--dst', REMOTE) if ' CLOSE ' in x], 'a reset connection')
    # Deleted connections begin anew.
    with Conversation(lab.client, OUTSIDE) as c:
        c.ask()
        lab.gateway.cli('conntrack', 'flush')
        assert c.ask()[0] == CLIENT


@test(workers=BOTH, start=False, kernel=False)
def reloads(lab):
    """A redirection comes with a reload, and goes: connections that have it keep it, and take the program with them."""
    lab.gateway.start(base(lab.workers))
    lab.serve(lab.gw)
    lab.serve(lab.server)
    for _ in range(3):
        assert lab.gateway.translates_answers() == []
        assert udp_ask(lab.client, SERVER)[0] == tcp_ask(lab.client, SERVER)[0] == WAN
        lab.gateway.reload(with_redirect(lab.workers, ECHO_HERE))
        assert lab.gateway.translates_answers() == ['lan0', 'wan0']
        # Without a second try: what a reload returns from is in force.
        assert udp_ask(lab.client, SERVER, tries=1)[0] == CLIENT
        with Conversation(lab.client, SERVER) as c:
            assert c.ask()[0] == CLIENT
            lab.gateway.reload(base(lab.workers))
            assert udp_ask(lab.client, SERVER)[0] == WAN
            time.sleep(1.5)  # longer than the program is looked after
            assert c.ask()[0] == CLIENT
        lab.gateway.cli('conntrack', 'flush')
        wait_for(lambda: lab.gateway.translates_answers() == [], 'the program goes')


@test(workers=BOTH, start=False, kernel=False)
def crash(lab):
    """After kill -9 the host's own traffic flows, and the next start takes over."""
    policy = with_redirect(lab.workers, DNS, ECHO_HERE)
    lab.gateway.start(policy)
    lab.serve(lab.gw)
    assert udp_ask(lab.client, SERVER)[0] == CLIENT
    lab.gateway.kill()
    assert udp_ask(lab.client, LAN)[0] == CLIENT
    assert tcp_ask(lab.client, LAN6)[0] == CLIENT6
    assert ping(lab.gw, SERVER).received == 3
    lab.gateway.start(policy)
    assert udp_ask(lab.client, SERVER)[0] == CLIENT


@test(start=False, kernel=False)
def clean_stop(lab):
    """A clean stop leaves no traffic control program, and without a redirection there is none."""
    lab.gateway.start(base())
    assert lab.gateway.translates_answers() == []
    lab.gateway.stop()
    lab.gateway.start(with_redirect(1, DNS))
    assert lab.gateway.translates_answers() == ['lan0', 'wan0']
    assert lab.gateway.stop() == 0
    assert lab.gateway.translates_answers() == []
