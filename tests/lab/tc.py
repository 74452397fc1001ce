"""The BPF programs on an interface's way out, which bpftool of Debian 12 does not list when they are TCX links."""

import ctypes
import json
import platform
import socket

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_BPF = {'x86_64': 321, 'aarch64': 280, 'riscv64': 280, 'ppc64le': 361, 's390x': 351}[platform.machine()]
_PROG_QUERY = 16
_TCX_EGRESS = 47
_MOST = 64


class _Query(ctypes.Structure):
    """`struct { ... } query` of `union bpf_attr`."""
    _fields_ = [('target_ifindex', ctypes.c_uint32), ('attach_type', ctypes.c_uint32),
                ('query_flags', ctypes.c_uint32), ('attach_flags', ctypes.c_uint32),
                ('prog_ids', ctypes.c_uint64), ('count', ctypes.c_uint32), ('unused', ctypes.c_uint32 * 9)]


def programs(ns, device):
    """The names of the programs, those of a clsact queueing discipline first."""
    filters = json.loads(ns.run('tc', '-j', 'filter', 'show', 'dev', device, 'egress').stdout or '[]')
    names = [f['options']['prog']['name'] for f in filters if 'prog' in f.get('options', {})]
    return names + [json.loads(ns.run('bpftool', '-j', 'prog', 'show', 'id', i).stdout)['name']
                    for i in _tcx(ns, device)]


def _tcx(ns, device):
    ids = (ctypes.c_uint32 * _MOST)()
    with ns:
        q = _Query(socket.if_nametoindex(device), _TCX_EGRESS, 0, 0, ctypes.addressof(ids), _MOST)
        failed = _libc.syscall(_SYS_BPF, _PROG_QUERY, ctypes.byref(q), ctypes.sizeof(q))
    if failed:
        # Kernels before 6.6 have no such links.
        return []
    return list(ids[:q.count])
