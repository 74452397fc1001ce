"""IRC's direct connections (DCC): one client invites another, who connects to it past the server."""

import contextlib
import os
import socket

from lab import irc
from lab.policy import *
from runner import test

BOTH = (1, 2)


def with_helper(workers, *helpers):
    """The usual policy with helpers."""
    policy = base(workers)
    policy['conntrack'] = {'helpers': list(helpers)}
    return policy


def listen(ns, address, port=0):
    """A socket that waits for a direct connection."""
    with ns:
        s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(5)
    s.bind((address, port))
    s.listen()
    return s


def connect(ns, address, port, timeout=5):
    """A direct connection to an address and port that an invitation named."""
    with ns:
        s = socket.socket()
    s.settimeout(timeout)
    try:
        s.connect((address, port))
    except OSError:
        s.close()
        raise
    return s


def exchange(a, b, length=100_000):
    """Moves random bytes each way between two ends of a connection."""
    for sender, receiver in ((a, b), (b, a)):
        data = os.urandom(length)
        sender.settimeout(5)
        received = bytearray()
        sent = 0
        while len(received) < length:
            if sent < length:
                sent += sender.send(data[sent:sent + 20_000])
            received += receiver.recv(65536)
        assert received == data


@test(workers=BOTH, start=False, kernel=False, rows=(('send', 'SEND', 6667), ('chat', 'CHAT', 6667),
                                                     ('own_port', 'SEND', 7000)))
def direct_connection(lab, row):
    """A client inside invites a peer outside, who is told the address outside and gets through, once."""
    _, command, port = row
    lab.gateway.start(with_helper(lab.workers, 'irc' if port == 6667 else {'helper': 'irc', 'port': port}))
    with irc.Server(lab.outside, REMOTE, port), irc.Client(lab.client, REMOTE, port, 'alice') as alice, \
            irc.Client(lab.outside, REMOTE, port, 'bob') as bob, listen(lab.client, CLIENT) as waiting:
        inside = waiting.getsockname()[1]
        for round_ in range(2):
            alice.invite('bob', command, CLIENT, inside)
            told = bob.invited()
            assert told == (command, WAN, inside), 'the peer is told %s' % (told,)
            with connect(lab.outside, *told[1:]) as b:
                a, peer = waiting.accept()
                with a:
                    assert peer[0] == OUTSIDE, 'the peer is %s' % (peer,)
                    exchange(a, b)
            with contextlib.suppress(OSError):
                connect(lab.outside, *told[1:], timeout=0.5).close()
                raise AssertionError('a second connection gets through')
            # The invitation changed its length: what follows must still fit.
            for n in range(3):
                alice.say('bob', 'line %d of round %d' % (n, round_))
                assert bob.hear() == 'line %d of round %d' % (n, round_)
                bob.say('alice', 'answer %d' % n)
                assert alice.hear() == 'answer %d' % n


@test(workers=BOTH, start=False, kernel=False)
def same_port_twice(lab):
    """Two clients inside wait at the same port: the peers are told different ones, and reach the right client."""
    lab.gateway.start(with_helper(lab.workers, 'irc'))
    with contextlib.ExitStack() as stack:
        stack.enter_context(irc.Server(lab.outside, REMOTE, 6667))
        bob = stack.enter_context(irc.Client(lab.outside, REMOTE, 6667, 'bob'))
        told, waiting = [], []
        for ns, address, nick in ((lab.client, CLIENT, 'alice'), (lab.client2, CLIENT2, 'anna')):
            client = stack.enter_context(irc.Client(ns, REMOTE, 6667, nick))
            waiting.append(stack.enter_context(listen(ns, address, 5000)))
            client.invite('bob', 'CHAT', address, 5000)
            told.append(bob.invited())
        assert [t[1] for t in told] == [WAN, WAN] and told[0][2] == 5000 != told[1][2], told
        for t, w in reversed(list(zip(told, waiting))):
            b = stack.enter_context(connect(lab.outside, *t[1:]))
            a = stack.enter_context(w.accept()[0])
            exchange(a, b, 1000)


@test(start=False, kernel=False, rows=(('no_helper', [], CLIENT, CLIENT), ('forged', ['irc'], CLIENT2, CLIENT2)))
def left_alone(lab, row):
    """Without the helper, or with somebody else's address in it, an invitation passes unread and opens nothing."""
    _, helpers, address, seen = row
    lab.gateway.start(with_helper(1, *helpers) if helpers else base(1))
    with irc.Server(lab.outside, REMOTE, 6667), irc.Client(lab.client, REMOTE, 6667, 'alice') as alice, \
            irc.Client(lab.outside, REMOTE, 6667, 'bob') as bob, listen(lab.client, CLIENT) as waiting:
        port = waiting.getsockname()[1]
        alice.invite('bob', 'SEND', address, port)
        assert bob.invited() == ('SEND', seen, port)
        with contextlib.suppress(OSError):
            connect(lab.outside, WAN, port, timeout=0.5).close()
            raise AssertionError('a connection gets through')
