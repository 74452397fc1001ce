"""The real programs of the tests, and small clients of the echo server, with their results as values."""

import contextlib
import hashlib
import json
import os
import re
import socket
import time

from .policy import ECHO


def wait_for(condition, what, seconds=10, pause=0.02):
    """Polls until `condition()` is true and returns its value; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError('%s: not within %g s' % (what, seconds))
        time.sleep(pause)


class Ping:
    """What ping printed."""

    def __init__(self, output):
        self.output = output
        m = re.search(r'(\d+) packets transmitted, (\d+) received', output)
        self.sent, self.received = (int(m[1]), int(m[2])) if m else (0, 0)
        m = re.search(r'= [\d.]+/([\d.]+)/', output)
        self.average_ms = float(m[1]) if m else None


def ping(ns, address, count=3, interval=0.05, size=None, df=False, ttl=None, wait=1):
    """Pings an address of either family; answers lost are for the caller to judge."""
    options = ['-n', '-c', count, '-i', interval, '-W', wait]
    options += ['-s', size] if size is not None else []
    options += ['-M', 'do'] if df else []
    options += ['-t', ttl] if ttl is not None else []
    return Ping(_text(ns.run('ping', *options, address, check=False, timeout=count * (interval + wait) + 10)))


def traceroute(ns, address, *options):
    """The hops' addresses in order, '*' for silence."""
    out = ns.run('traceroute', '-n', '-q', 1, '-w', 2, '-m', 6, *options, address).stdout
    return [line.split()[1] for line in out.splitlines()[1:]]


def dig(ns, server, name, *options, tries=2):
    """The answers to a DNS question, and the milliseconds it took."""
    out = ns.run('dig', '+time=2', '+tries=%d' % tries, '@' + server, name, *options, check=False).stdout
    answers = [line.split()[4] for line in out.splitlines() if line and line[0] != ';']
    m = re.search(r'Query time: (\d+) msec', out)
    return answers, int(m[1]) if m else None


def serve_dns(ns, log, name='www.example.test', address='192.0.2.80', listen=()):
    """Starts dnsmasq with one name."""
    where = ['--listen-address=' + a for a in listen]
    ns.start('dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--user=root',
             '--pid-file=', '--bind-interfaces', '--address=/%s/%s' % (name, address), *where, log=log)
    wait_for(lambda: ns.run('ss', '-Hlun', 'sport = :53').stdout.strip(), 'dnsmasq')


def random_file(path, megabytes):
    """Writes a file of random bytes and returns its SHA-256."""
    digest = hashlib.sha256()
    with open(path, 'wb') as f:
        for _ in range(megabytes):
            block = os.urandom(1 << 20)
            digest.update(block)
            f.write(block)
    return digest.hexdigest()


def sha256(path):
    """The SHA-256 of a file."""
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest()


def curl(ns, *arguments, timeout=60):
    """Runs curl, which must succeed, and returns the body."""
    return ns.run('curl', '--silent', '--show-error', '--fail', '--max-time', timeout, *arguments,
                  timeout=timeout + 5).stdout


def transfer(ns, url, *arguments, timeout=60):
    """Downloads or uploads with curl; returns bytes a second."""
    out = curl(ns, '-w', '\n%{speed_download} %{speed_upload}', *arguments, url, timeout=timeout)
    return max(float(x) for x in out.splitlines()[-1].split())


def url(address, port=80, path='/whoami'):
    """An HTTP URL for an address of either family."""
    host = '[%s]' % address if ':' in address else address
    return 'http://%s:%d%s' % (host, port, path)


def iperf3(client, server, address, *options, seconds=2, port=5201):
    """Runs iperf3 between two hosts and returns its report (JSON)."""
    daemon = server.start('iperf3', '-s', '-1', '-p', port, log=os.devnull)
    wait_for(lambda: server.run('ss', '-Hltn', 'sport = :%d' % port).stdout.strip(), 'iperf3 -s')
    try:
        r = client.run('iperf3', '-c', address, '-p', port, '-t', seconds, '-J', *options, check=False,
                       timeout=seconds + 20)
    finally:
        daemon.terminate()
        daemon.wait()
    report = json.loads(r.stdout or '{"error": "no output"}')
    if 'error' in report:
        raise AssertionError('iperf3 to %s: %s' % (address, report['error']))
    return report['end']


def families(address):
    """The socket family of an address."""
    return socket.AF_INET6 if ':' in address else socket.AF_INET


def udp_socket(ns, source=('', 0), family=socket.AF_INET):
    """A UDP socket on a host."""
    with ns:
        s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(source)
    return s


def udp_ask(ns, address, port=ECHO, source_port=0, sock=None, tries=3, wait=1.0):
    """Sends a datagram to the echo server; returns the (address, port) it saw. TimeoutError if no answer comes."""
    with contextlib.ExitStack() as stack:
        if sock is None:
            sock = stack.enter_context(contextlib.closing(
                udp_socket(ns, ('', source_port), families(address))))
        for _ in range(tries):
            question = os.urandom(8).hex().encode()
            sock.sendto(question, (address, port))
            end = time.monotonic() + wait
            while (left := end - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    data, peer = sock.recvfrom(65536)
                except (TimeoutError, ConnectionRefusedError):
                    break
                seen, seen_port, echoed = data.split(b' ', 2)
                if echoed == question:
                    if (peer[0], peer[1]) != (address, port):
                        raise AssertionError('asked %s:%d, answered by %s:%d' % (address, port, peer[0], peer[1]))
                    return seen.decode(), int(seen_port)
    raise TimeoutError('no answer over UDP from %s:%d' % (address, port))


def silent(ask, *arguments, **keywords):
    """Whether `udp_ask` or `tcp_ask` gets no answer at all."""
    try:
        ask(*arguments, **keywords)
    except TimeoutError:
        return True
    return False


class Conversation:
    """A TCP connection to the echo server."""

    def __init__(self, ns, address, port=ECHO, source_port=0, timeout=5.0):
        with ns:
            self.socket = socket.socket(families(address), socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.settimeout(timeout)
        try:
            if source_port:
                self.socket.bind(('', source_port))
            self.socket.connect((address, port))
        except OSError:
            self.socket.close()
            raise

    def ask(self, text=b'hello'):
        """Sends a message; returns the (address, port) the server sees. TimeoutError if no answer comes."""
        self.socket.sendall(text + b'\n')
        data = b''
        while not data.endswith(b'\n'):
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError('closed by the server')
            data += chunk
        seen, port, echoed = data.split(b' ', 2)
        if echoed != text + b'\n':
            raise AssertionError('sent %d bytes, another %d came back' % (len(text), len(echoed) - 1))
        return seen.decode(), int(port)

    def close(self):
        """Closes the connection."""
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def tcp_ask(ns, address, port=ECHO, source_port=0, timeout=5.0):
    """Opens a connection to the echo server and returns the (address, port) it saw."""
    with Conversation(ns, address, port, source_port, timeout) as c:
        return c.ask()


def _text(result):
    return result.stdout + result.stderr
