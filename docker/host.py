#!/usr/bin/env python3
"""What runs on the testbed's hosts: host.py serve FOLDER | load

serve   HTTP on port 80, an echo server on 7007 (server.py), DNS, FTP, and iperf3 on 5301
load    traffic of many kinds towards the server, in waves of three minutes, so that there is something to see
"""

import contextlib
import ftplib
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

SERVER, SERVER6, PUBLISHED = '198.51.100.2', '2001:db8:100::2', ('198.51.100.1', 8080)
HTTP, ECHO, CALLS, TELNET, BULK = 80, 7007, 3478, 23, 5301
WAVE_SECONDS = 180
HERE = os.path.dirname(os.path.abspath(__file__))
# In the image beside this file.
WEB = next(p for p in (HERE + '/server.py', HERE + '/../tests/lab/server.py') if os.path.exists(p))
FTP = ('listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root=%s\n'
       'connect_from_port_20=YES\nseccomp_sandbox=NO\nport_enable=YES\nxferlog_enable=NO\n')


def serve(folder):
    """Starts the servers, and again what ends."""
    with open(os.path.join(folder, '.vsftpd.conf'), 'w') as f:
        f.write(FTP % folder)
    os.makedirs('/var/run/vsftpd/empty', exist_ok=True)
    with open(os.path.join(folder, 'hello'), 'wb') as hello:
        hello.write(os.urandom(1 << 16))
    servers = {}
    for command in ([sys.executable, WEB, str(HTTP), str(ECHO), folder],
                    ['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--user=root',
                     '--pid-file=', '--address=/www.example.test/192.0.2.80'],
                    ['vsftpd', f.name], ['iperf3', '-s', '-p', str(BULK)]):
        servers[subprocess.Popen(command, stdout=subprocess.DEVNULL).pid] = command
    while True:
        # As process 1 of a container: also the orphans of whatever is run there.
        pid, status = os.wait()
        command = servers.pop(pid, None)
        if command:
            print('%s ended with status %d: once more' % (command[0], status), flush=True)
            time.sleep(1)
            servers[subprocess.Popen(command, stdout=subprocess.DEVNULL).pid] = command


def wave():
    """How strong the load is just now, 0 to 1."""
    return 0.5 - 0.5 * math.cos(2 * math.pi * time.time() / WAVE_SECONDS)


def bulk():
    """Ten seconds of iperf3 at a time: both protocols, both directions, both families."""
    for address, *options in ((SERVER,), (SERVER, '-R'), (SERVER6, '-u', '-l', '1200'), (SERVER6, '-R')):
        rate = '%dM' % (5 + 35 * wave())
        subprocess.run(['iperf3', '-c', address, '-p', str(BULK), '-t', '10', '-b', rate, *options],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False)
        time.sleep(1)


def flows():
    """Short connections, between 5 and 65 a second."""
    for _ in range(int(5 + 60 * wave())):
        kind = socket.SOCK_DGRAM if random.random() < 0.7 else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as s:
            s.settimeout(1)
            s.connect((SERVER, ECHO))
            s.sendall(b'hello\n')
            s.recv(100)
    time.sleep(1)


def rest(calls):
    """One of everything else."""
    subprocess.run(['ping', '-n', '-c', '2', '-i', '0.2', '-W', '1', '-s', random.choice(('56', '3000')), SERVER],
                   stdout=subprocess.DEVNULL, check=False)
    subprocess.run(['dig', '+tries=1', '+time=1', '@' + SERVER6, 'www.example.test'], stdout=subprocess.DEVNULL, check=False)
    calls.sendto(b'call', (SERVER, CALLS))
    # From the inside to client2, by the address that is published outside.
    with contextlib.suppress(OSError), socket.create_connection(PUBLISHED, timeout=2) as s:
        s.sendall(b'GET /whoami HTTP/1.0\r\n\r\n')
        s.recv(1000)
    with contextlib.suppress(*ftplib.all_errors), ftplib.FTP(SERVER, timeout=2) as ftp:
        ftp.login()
        # An address in the control stream, which the helper rewrites.
        ftp.set_pasv(random.random() < 0.5)
        ftp.retrbinary('RETR hello', lambda block: None)
    # What the policy drops.
    with contextlib.suppress(OSError):
        socket.create_connection((SERVER, TELNET), timeout=0.2).close()
    time.sleep(1)


def forever(step, *arguments):
    """Steps that fail are repeated like any other: cables are pulled and gateways killed here."""
    while True:
        try:
            step(*arguments)
        except (OSError, subprocess.SubprocessError):
            time.sleep(0.5)


def load():
    """All of it at once."""
    calls = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for step in ((bulk,), (flows,), (rest, calls)):
        threading.Thread(target=forever, args=step, daemon=True).start()
    signal.pause()


def end(*_):
    """Ends this process and its children."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    os._exit(0)


def main():
    verb, arguments = sys.argv[1:2], sys.argv[2:]
    if (verb, len(arguments)) not in ((['serve'], 1), (['load'], 0)):
        sys.exit(__doc__)
    # Process 1 of a container has no default action for signals, and elsewhere children do not end by themselves.
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    {'serve': serve, 'load': load}[verb[0]](*arguments)


if __name__ == '__main__':
    main()
