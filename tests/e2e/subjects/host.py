"""The gateway host itself, whose address the clients are translated to."""

import contextlib

from lab.policy import *
from lab.programs import Conversation, dig, ping, serve_dns, silent, tcp_ask, udp_ask
from runner import test

BOTH = (1, 2)


@contextlib.contextmanager
def translated_clients(lab):
    """Connections of both clients that share the gateway's address, checked before and after."""
    lab.serve(lab.server)
    with Conversation(lab.client, SERVER) as a, Conversation(lab.client2, SERVER) as b:
        def talk():
            assert a.ask()[0] == WAN and b.ask()[0] == WAN
            assert udp_ask(lab.client, SERVER)[0] == WAN
            assert ping(lab.client, SERVER).received == 3
        talk()
        yield
        talk()


@test(workers=BOTH)
def pings(lab):
    """The host pings outside from the masquerade address, and is pinged there, from both sides and families."""
    with translated_clients(lab):
        for ns, addresses in ((lab.gw, (SERVER, SERVER6, REMOTE, CLIENT)), (lab.server, (WAN, WAN6)),
                              (lab.client, (LAN, LAN6, WAN, WAN6))):
            for a in addresses:
                p = ping(ns, a, count=5)
                assert p.received == 5, '%s: %s' % (ns.short, p.output)


@test(workers=BOTH)
def dns_client(lab):
    """The host asks DNS from the masquerade address while a client's questions are translated to it."""
    serve_dns(lab.server, lab.path('dnsmasq.log'), listen=[SERVER, SERVER6])
    with translated_clients(lab):
        for _ in range(5):
            for ns in (lab.gw, lab.client):
                for address in (SERVER, SERVER6):
                    answers, _ = dig(ns, address, 'www.example.test')
                    assert answers == ['192.0.2.80'], '%s asks %s: %s' % (ns.short, address, answers)


@test(workers=BOTH)
def dns_server(lab):
    """The host's own DNS server answers on the inside and on the masquerade address."""
    serve_dns(lab.gw, lab.path('dnsmasq.log'), listen=[LAN, LAN6, WAN, WAN6])
    with translated_clients(lab):
        for ns, addresses in ((lab.client, (LAN, LAN6)), (lab.server, (WAN, WAN6))):
            for address in addresses:
                answers, _ = dig(ns, address, 'www.example.test')
                assert answers == ['192.0.2.80'], '%s asks %s: %s' % (ns.short, address, answers)


@test(workers=BOTH)
def tcp_both_ways(lab):
    """Long connections to and from the host on the masquerade address, as SSH would make them."""
    with translated_clients(lab):
        lab.serve(lab.gw, http=8081, echo=22)
        lab.serve(lab.outside)
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Conversation(*a)) for a in (
                (lab.server, WAN, 22), (lab.server, WAN6, 22), (lab.client, LAN, 22), (lab.client, WAN, 22),
                (lab.gw, SERVER, ECHO), (lab.gw, SERVER6, ECHO), (lab.gw, REMOTE, ECHO))]
            for n in range(20):
                for t in talks:
                    t.ask(b'line %d' % n + b'.' * 400)
        assert tcp_ask(lab.gw, SERVER)[0] == WAN


@test(workers=BOTH)
def own_firewall(lab):
    """The host's INPUT rules see its traffic as if received on the interface, also on the masquerade address."""
    lab.gw.nft('''table inet host {
                    chain input {
                      type filter hook input priority filter; policy drop
                      iifname lo accept
                      icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                      ct state established,related accept
                      iifname "wan0" tcp dport 22 accept
                    }
                  }''')
    lab.serve(lab.gw, http=8081, echo=22)
    with translated_clients(lab):
        assert tcp_ask(lab.server, WAN, 22)[0] == SERVER
        assert tcp_ask(lab.gw, SERVER)[0] == WAN
        assert silent(tcp_ask, lab.server, WAN, 8081, timeout=0.5), 'a port that the host closes is open'
        assert ping(lab.server, WAN, count=2, wait=0.3).received == 0
