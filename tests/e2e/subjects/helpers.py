"""Helpers: connections that FTP and TFTP announce inside their payload, by real servers and clients."""

import ftplib
import json
import os
import re
import socket

from lab.policy import *
from lab.programs import curl, random_file, sha256, tcp_ask, udp_ask, wait_for
from runner import test

BOTH = (1, 2)
FTP_MODES = (
    ('active-port', SERVER, ['--ftp-port', '-', '--disable-eprt']),
    ('active-eprt', SERVER, ['--ftp-port', '-']),
    ('passive-pasv', SERVER, ['--disable-epsv']),
    ('passive-epsv', SERVER, []),
    ('active-ipv6', SERVER6, ['--ftp-port', '-']),
    ('passive-ipv6', SERVER6, []),
)


def with_helpers(workers, *helpers):
    """The usual policy with helpers on their standard ports."""
    policy = base(workers)
    policy['conntrack'] = {'helpers': list(helpers)}
    return policy


def listening(ns, kind, port):
    """Whether something listens on a port."""
    return ns.run('ss', '-Hln' + kind, 'sport = :%d' % port).stdout.strip()


def serve_ftp(lab, ns):
    """Starts vsftpd with one file of random bytes; returns the file's digest."""
    root = lab.path('ftp')
    os.makedirs(root)
    os.makedirs('/var/run/vsftpd/empty', exist_ok=True)
    digest = random_file(os.path.join(root, 'data'), 2)
    os.chmod(root, 0o555)
    os.chmod(os.path.join(root, 'data'), 0o444)
    # The server's user must get at the folder.
    os.chmod(os.path.dirname(root), 0o755)
    config = lab.path('vsftpd.conf')
    with open(config, 'w') as f:
        f.write('listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\n'
                'anon_root=%s\nconnect_from_port_20=YES\nseccomp_sandbox=NO\nport_enable=YES\n'
                'xferlog_enable=NO\n' % root)
    ns.start('vsftpd', config, log=lab.path('vsftpd.log'))
    wait_for(lambda: listening(ns, 't', 21), 'vsftpd')
    return digest


def serve_tftp(lab):
    """Starts tftpd on the server with one file of random bytes; returns the file's digest."""
    root = lab.path('tftp')
    os.makedirs(root)
    digest = random_file(os.path.join(root, 'data'), 1)
    for path in (os.path.dirname(root), root):
        os.chmod(path, 0o755)
    lab.server.start('in.tftpd', '--foreground', '--address', '[::]:69', '--secure', root, '--user', 'nobody',
                     log=lab.path('tftpd.log'))
    wait_for(lambda: listening(lab.server, 'u', 69), 'tftpd')
    return digest


def fetch(lab, ns, address, *options, scheme='ftp'):
    """Fetches the file and returns its digest."""
    target = lab.path('fetched')
    host = '[%s]' % address if ':' in address else address
    curl(ns, *options, '--output', target, '%s://%s/data' % (scheme, host), timeout=20)
    return sha256(target)


@test(workers=BOTH, rows=FTP_MODES, start=False, kernel=False)
def ftp(lab, row):
    """Every mode of FTP fetches the file, several times over one daemon."""
    _, address, options = row
    lab.gateway.start(with_helpers(lab.workers, 'ftp'))
    digest = serve_ftp(lab, lab.server)
    for _ in range(3):
        assert fetch(lab, lab.client, address, *options) == digest


@test(start=False, kernel=False, rows=(('none', None), ('ftp_alone', 'ftp'), ('tftp_alone', 'tftp')))
def each_by_itself(lab, row):
    """Off unless configured, each by itself: what a helper does not read does not get in."""
    helper = row[1]
    lab.gateway.start(with_helpers(1, helper) if helper else base(1))
    serve_ftp(lab, lab.server)
    serve_tftp(lab)
    for scheme, options in (('ftp', ['--ftp-port', '-']), ('tftp', [])):
        r = lab.client.run('curl', '--silent', '--max-time', 10 if scheme == helper else 2, *options, '--output',
                           lab.path('fetched'), '%s://%s/data' % (scheme, SERVER), check=False, timeout=15)
        assert (r.returncode == 0) == (scheme == helper), '%s with the helper %s: %d' % (scheme, helper, r.returncode)


@test(workers=BOTH, start=False, kernel=False)
def ftp_server_inside(lab):
    """A published server: the data connection it announces is let in and translated."""
    policy = with_helpers(lab.workers, 'ftp')
    policy['nat']['destination'].append({
        'name': 'ftp', 'from': 'outside', 'match': {'protocol': 'tcp', 'destination': WAN, 'port': 21},
        'translate': {'to': CLIENT2, 'port': 21}})
    lab.gateway.start(policy)
    digest = serve_ftp(lab, lab.client2)
    for options in ([], ['--disable-epsv'], ['--ftp-port', '-']):
        assert fetch(lab, lab.outside, WAN, *options) == digest


@test(workers=BOTH, rows=(('ipv4', SERVER), ('ipv6', SERVER6)), start=False, kernel=False)
def tftp(lab, row):
    """The server answers from a port of its own."""
    lab.gateway.start(with_helpers(lab.workers, 'tftp'))
    digest = serve_tftp(lab)
    for _ in range(2):
        assert fetch(lab, lab.client, row[1], '--tftp-blksize', '1024', scheme='tftp') == digest


EXPECTED = re.compile(
    r'(\d+) proto=6 src=%s dst=%s sport=0 dport=(\d+) mask-src=255\.255\.255\.255 mask-dst=255\.255\.255\.255 '
    r'sport=0 dport=65535 master-src=%s master-dst=%s sport=\d+ dport=21 class=0 helper=ftp'
    % tuple(re.escape(a) for a in (CLIENT, SERVER, CLIENT, SERVER)))


@test(workers=BOTH, start=False, kernel=False)
def expectations(lab):
    """What a server announces is listed until it is used; the announced connection inherits the mark."""
    policy = with_helpers(lab.workers, 'ftp')
    policy['policy']['rules'].insert(0, {'name': 'control', 'match': {'protocol': 'tcp', 'port': 21},
                                         'action': 'accept', 'mark': 7})
    lab.gateway.start(policy)
    serve_ftp(lab, lab.server)

    def listed(*words):
        return lab.gateway.cli('conntrack', 'expectations', *words).stdout.splitlines()

    assert listed() == []
    with lab.client:
        control = ftplib.FTP(SERVER, timeout=10)
    control.login()
    host, port = control.makepasv()
    lines = listed()
    match = EXPECTED.fullmatch(lines[0]) if len(lines) == 1 else None
    assert match and 290 <= int(match[1]) <= 300 and int(match[2]) == port, lines
    told = json.loads(listed('--json')[0])
    assert (told['listener'], told['listener_port'], told['helper']) == (SERVER, port, 'ftp'), told
    with lab.client:
        data = socket.create_connection((host, port), timeout=10)
    assert listed() == [], 'it is used once'
    marked = lab.gateway.conntrack('--dport', str(port))
    assert len(marked) == 1 and ' mark=7 ' in marked[0], marked
    data.close()
    control.close()
    # A command that is not finished; the expectation goes with its master.
    with lab.client:
        control = ftplib.FTP(SERVER, timeout=10)
    control.login()
    control.makepasv()
    assert len(listed()) == 1
    lab.gateway.cli('conntrack', 'delete', '--dport', '21')
    assert listed() == []
    control.close()


def receive(sock, seconds=1.0):
    """What arrives at a socket, None if nothing does."""
    sock.settimeout(seconds)
    try:
        return sock.recvfrom(100)[0]
    except TimeoutError:
        return None


@test(workers=BOTH, start=False, kernel=False,
      rows=(('everybody', 'endpoint-independent', True, True), ('known-address', 'address-dependent', False, True),
            ('known-endpoint', 'endpoint-dependent', False, False)))
def filtering(lab, row):
    """Endpoint-independent mapping: one outside port for all remotes, open to whom the filtering says."""
    _, kind, stranger, other_port = row
    policy = base(lab.workers)
    policy['nat']['source'][0]['translate'] = {
        'masquerade': True, 'mapping': 'endpoint-independent', 'filtering': kind}
    lab.gateway.start(policy)
    with lab.server:
        known, known_too = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        known.bind((SERVER, 6000))
        known_too.bind((SERVER, 6001))
    with lab.outside:
        foreign = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        foreign.bind((OUTSIDE, 6000))
    with lab.client:
        inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for s in (known, known_too, foreign):
        s.settimeout(3)
    inside.sendto(b'hello', (SERVER, 6000))
    seen = known.recvfrom(100)[1]
    assert seen[0] == WAN
    for sock, admitted, who in ((foreign, stranger, 'a stranger'), (known_too, other_port, 'another port'),
                                (known, True, 'who was sent to')):
        sock.sendto(who.encode(), seen)
        got = receive(inside)
        assert (got == who.encode()) == admitted, '%s: %s' % (who, got)
    inside.sendto(b'again', (OUTSIDE, 6000))
    assert foreign.recvfrom(100)[1] == seen, 'the mapping depends on the remote'


@test(workers=BOTH, start=False, kernel=False)
def static(lab):
    """`nat.static`: an inside host has an outside address of its own, in both directions."""
    lab.gw.batch(['addr add 198.51.100.9/32 dev wan0'])
    policy = base(lab.workers)
    policy['nat']['static'] = [{'name': 'host', 'inside': CLIENT2, 'outside': '198.51.100.9', 'to': 'outside'}]
    lab.gateway.start(policy)
    lab.serve(lab.server)
    lab.serve(lab.client2)
    for ask in (udp_ask, tcp_ask):
        assert ask(lab.client2, SERVER)[0] == '198.51.100.9'
        assert ask(lab.server, '198.51.100.9')[0] == SERVER
        assert ask(lab.client, SERVER)[0] == WAN
