"""Fault drills: each breaks something under traffic, and its text says what is to come of it.

They run in the laboratory's namespaces (tests/e2e drills) and between the testbed's containers (tests/testbed). A good
client, `ping` fifty times a second and a TCP connection that stays, is measured in all of them. What a drill
returns are its figures.
"""

import os
import re
import subprocess
import sys
import time

from .demonstration import require
from .policy import *                                                                               # noqa: F403
from .programs import Conversation, ping, tcp_ask, udp_ask, wait_for

_HERE = os.path.dirname(os.path.abspath(__file__))
A_SECOND = 50
# Packets a second of a flood: more than a client sends, and less than fills the cores of a small machine.
RATE = 30_000


class GoodClient:
    """Pings and a connection from `client` to the server, for as long as the drill lasts."""

    def __init__(self, lab, seconds):
        self.talk = Conversation(lab.client, SERVER, timeout=60)
        self.talk.ask()
        argv = lab.client.argv('ping', '-n', '-D', '-i', 1 / A_SECOND, '-w', seconds, '-W', 1, SERVER)
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, env=lab.client.environment)
        time.sleep(0.5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.talk.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self):
        """Waits for the last answer, and looks whether the connection still works."""
        output = self.process.communicate(timeout=90)[0]
        answers = [(float(t), float(ms)) for t, ms in re.findall(r'^\[([\d.]+)\].*time=([\d.]+) ms', output, re.M)]
        m = re.search(r'(\d+) packets transmitted, (\d+) received', output)
        require(m and answers, 'ping said: ' + output[-300:])
        self.lost = 1 - int(m[2]) / int(m[1])
        # The longest time without an answer.
        self.gap = max(b - a for (a, _), (b, _) in zip(answers, answers[1:]))
        times = sorted(ms for _, ms in answers)
        self.median, self.high = times[len(times) // 2], times[len(times) * 99 // 100]
        self.talk.ask()
        return '%.1f %% lost, longest gap %.2f s, %.2f ms (99 %%: %.2f ms)' \
            % (100 * self.lost, self.gap, self.median, self.high)


def cable_pulled(lab):
    """The outside cable is pulled for two seconds: `sluice health` fails and says why, the host and the inside
    still answer; all goes on as soon as the cable is back, connections too."""
    with GoodClient(lab, 6) as good:
        lab.server.ip('link', 'set', 'eth0', 'down')
        health = wait_for(lambda: unhealthy(lab), 'health fails', 5)
        require('wan' in health, 'health says: ' + health)
        require(ping(lab.client, LAN).received, 'the gateway does not answer the inside')
        time.sleep(2)
        lab.server.batch(['link set eth0 up', 'addr replace %s/64 dev eth0 nodad' % SERVER6,
                          'route replace default via ' + WAN6])
        wait_for(lambda: not unhealthy(lab), 'healthy again', 5)
        figures = good.end()
        require(2 < good.gap < 4.5, 'the gap is %.2f s' % good.gap)
    return figures


def unhealthy(lab):
    """Why the gateway is not healthy, or None."""
    r = lab.gateway.cli('health', check=False)
    return r.stdout.strip() if r.returncode else None


def mac_changed(lab):
    """The server's card is exchanged, and the new one announces itself, as in a fail-over: the connection and the pings
    go on within three seconds."""
    before = lab.server.ip('-br', 'link', 'show', 'eth0').split()[2]
    lab.server.sysctl({'net.ipv4.conf.eth0.arp_notify': 1})
    with GoodClient(lab, 5) as good:
        # The kernel does not believe two announcements within a second.
        time.sleep(1)
        lab.server.ip('link', 'set', 'eth0', 'address', '02:00:00:00:99:99')
        figures = good.end()
        require(good.gap < 3, 'the gap is %.2f s' % good.gap)
    lab.server.ip('link', 'set', 'eth0', 'address', before)
    wait_for(lambda: ping(lab.client, SERVER, count=1).received, 'the old card answers', 10)
    return figures


def route_withdrawn(lab):
    """The default route goes: what used it is told so (ICMP net unreachable) and counted; neighbours are
    reached as before; what used it goes on when it is back."""
    routes = [line.split(' proto')[0] for line in lab.gw.ip('route', 'show', 'default').splitlines()]
    with GoodClient(lab, 4) as good, Conversation(lab.client, REMOTE, timeout=30) as far:
        far.ask()
        before = lab.gateway.dropped('no_route')
        lab.gw.ip('route', 'del', 'default')
        wait_for(lambda: 'Net Unreachable' in ping(lab.client, REMOTE, count=1).output, 'net unreachable', 5)
        require(lab.gateway.dropped('no_route') > before, 'no drop is counted')
        lab.gw.batch(['route add ' + r for r in routes])
        far.ask()
        figures = good.end()
        require(good.lost < 0.1, 'the neighbour: ' + figures)
    return 'the neighbour meanwhile: ' + figures


def gateway_killed(lab):
    """SIGKILL under load: nothing passes, which is what `on_failure: closed` says. After a start everything goes on, the old
    connection too, which is picked up in the middle."""
    # A container's cables have to be laid again.
    with GoodClient(lab, 12 if lab.has_engine else 5) as good:
        lab.gateway.kill()
        require(not passes(lab), 'something passes without a gateway')
        started = time.monotonic()
        lab.gateway.start(lab.policy_text)
        wait_for(lambda: passes(lab), 'traffic again', 20)
        again = time.monotonic() - started
        good.talk.ask()
        return 'traffic again after %.1f s; %s' % (again, good.end())


def passes(lab):
    """Whether a datagram is answered. The client may have no route while its cable hangs in the air."""
    try:
        udp_ask(lab.client2, SERVER, tries=1, wait=0.5)
    except OSError:
        return False
    return True


def flood(lab, kind, seconds=5):
    """A flood from client2 beside the good client. Hosts, gateway and flood share the machine's cores, perhaps with others:
    what the good client loses because a busy machine lets a host wait is no fault of the gateway, so there are three tries."""
    for left in (2, 1, 0):
        with GoodClient(lab, seconds) as good:
            argv = lab.client2.wire_argv(sys.executable, os.path.join(_HERE, 'flood.py'), kind, CLIENT2, SERVER, seconds - 1, RATE)
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as p:
                time.sleep((seconds - 1) / 2)
                require(tcp_ask(lab.client, SERVER, timeout=10)[0] == WAN, 'no new connection during the flood')
                sent = int(p.communicate(timeout=60)[0])
            figures = '%d packets a second; the good client: %s' % (sent / (seconds - 1), good.end())
        require(sent > RATE / 4 * (seconds - 1), 'that is no flood: ' + figures)
        wait_for(lambda: lab.gateway.unaccounted() == 0, 'every frame is accounted for', 5)
        if good.lost < 0.1 and good.median < 20:
            return figures
        require(left, figures)


def syn_flood(lab):
    """SYNs to every port: the table fills with connections that nobody answers, which make room for others. The good
    client keeps its connection and gets new ones, loses less than a tenth, and half its answers take less than 20 ms."""
    return flood(lab, 'syn')


def udp_flood(lab):
    """Datagrams to every port: as with SYNs."""
    return flood(lab, 'udp')


def fragment_flood(lab):
    """First fragments whose other halves never come: they wait in bounded memory, and datagrams of the good client
    that are whole pass."""
    return flood(lab, 'fragments')


# What needs nothing of the machine's own, and so runs between containers too.
NETWORK = (cable_pulled, mac_changed, route_withdrawn, gateway_killed, syn_flood, udp_flood, fragment_flood)
