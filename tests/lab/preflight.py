"""Whether this machine can run Sluice and the laboratory: root, capabilities, kernel features.

Prints nothing when it can; otherwise the first thing that is missing and the one line that mends it.
"""

import ctypes
import errno
import os
import platform
import socket
import subprocess
import sys

KERNEL = 'boot a kernel of Linux 6.1 or later with %s: apt-get install linux-image-amd64'
CAPABILITIES = {12: 'NET_ADMIN', 13: 'NET_RAW', 21: 'SYS_ADMIN'}
AF_XDP = 44
BPF = {'x86_64': 321, 'aarch64': 280, 'riscv64': 280}
UNSHARE_NETWORK = ['unshare', '--net', 'ip', 'link', 'add', 'type', 'veth']


def problem():
    """(what is missing, the line that mends it), or None."""
    if os.geteuid():
        return 'this needs root', 'sudo -E env PATH="$PATH" make %s' % sys.argv[1]
    missing = missing_capabilities()
    if missing:
        return ('root lacks the capabilities ' + ', '.join(missing),
                'docker run --security-opt seccomp=unconfined ' + ' '.join('--cap-add ' + c for c in missing))
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as e:
        if e.errno == errno.EAFNOSUPPORT:
            return 'the kernel has no AF_XDP sockets', KERNEL % 'CONFIG_XDP_SOCKETS=y'
        return 'an AF_XDP socket is refused: ' + e.strerror, 'docker run --security-opt seccomp=unconfined ...'
    error = bpf_error()
    if error == errno.ENOSYS:
        return 'the kernel has no bpf system call', KERNEL % 'CONFIG_BPF_SYSCALL=y'
    if error == errno.EPERM:
        return 'the bpf system call is refused', 'docker run --security-opt seccomp=unconfined ...'
    r = subprocess.run(UNSHARE_NETWORK, capture_output=True, text=True)
    if r.returncode:
        return ('network namespaces or veth are missing: ' + (r.stderr.strip() or 'unshare failed'),
                KERNEL % 'CONFIG_NET_NS=y and CONFIG_VETH=m')
    return None


def missing_capabilities():
    """What this process, although root, may not do."""
    with open('/proc/self/status') as f:
        effective = next(int(line.split()[1], 16) for line in f if line.startswith('CapEff'))
    return [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]


def bpf_error():
    """The error of an empty BPF_MAP_CREATE: EINVAL when the system call works; 0 on machines not known here."""
    number = BPF.get(platform.machine())
    if number is None:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(number, 0, ctypes.create_string_buffer(128), 128)
    return ctypes.get_errno()


if __name__ == '__main__':
    found = problem()
    if found:
        sys.exit('sluice: %s\n  mend it with: %s' % found)
