"""The gateway's configuration: the one most tests use, as plain values, and how values become YAML."""

import copy
import json

# Addresses of the laboratory; topology.py draws the picture.
LAN, LAN6 = '10.10.0.1', '2001:db8:10::1'
WAN, WAN6 = '198.51.100.1', '2001:db8:100::1'
CLIENT, CLIENT6 = '10.10.0.2', '2001:db8:10::2'
CLIENT2, CLIENT2_6 = '10.10.0.3', '2001:db8:10::3'
SERVER, SERVER6 = '198.51.100.2', '2001:db8:100::2'
OUTSIDE, OUTSIDE6 = '198.51.100.3', '2001:db8:100::3'
REMOTE, REMOTE6 = '203.0.113.5', '2001:db8:beef::5'
LAN_NET = '10.10.0.0/24'

# Ports of the servers that the tests start.
HTTP, ECHO = 80, 7007
# Ports of the gateway's WAN address that are forwarded to the second client.
FORWARD_HTTP, FORWARD_ECHO = 8080, 8007

_BASE = {
    'version': 1,
    'interfaces': {'lan': {'device': 'lan0', 'zone': 'inside'}, 'wan': {'device': 'wan0', 'zone': 'outside'}},
    'workers': {'count': 1},
    'nat': {
        'source': [
            {'name': 'internet', 'from': 'inside', 'to': 'outside', 'match': {'source': LAN_NET},
             'translate': 'masquerade'},
            {'name': 'hairpin', 'from': 'inside', 'to': 'inside', 'match': {'source': LAN_NET, 'status': 'dst_nat'},
             'translate': 'masquerade'},
        ],
        'destination': [
            {'name': 'web', 'from': ['outside', 'inside'],
             'match': {'protocol': 'tcp', 'destination': WAN, 'port': FORWARD_HTTP},
             'translate': {'to': CLIENT2, 'port': HTTP}},
            {'name': 'echo-tcp', 'from': ['outside', 'inside'],
             'match': {'protocol': 'tcp', 'destination': WAN, 'port': FORWARD_ECHO},
             'translate': {'to': CLIENT2, 'port': ECHO}},
            {'name': 'echo-udp', 'from': ['outside', 'inside'],
             'match': {'protocol': 'udp', 'destination': WAN, 'port': FORWARD_ECHO},
             'translate': {'to': CLIENT2, 'port': ECHO}},
        ],
    },
    'policy': {
        'default': 'drop',
        'rules': [
            {'name': 'established', 'match': {'state': ['established', 'related']}, 'action': 'accept'},
            {'name': 'invalid', 'match': {'state': 'invalid'}, 'action': 'drop'},
            {'name': 'lan-out', 'match': {'from': 'inside', 'to': 'outside'}, 'action': 'accept'},
            {'name': 'forwards', 'match': {'status': 'dst_nat'}, 'action': 'accept'},
        ],
    },
}


def base(workers=1):
    """Masquerade for the LAN, forwards to the second client with hairpin, IPv6 routed, the rest dropped."""
    policy = copy.deepcopy(_BASE)
    policy['workers']['count'] = workers
    return policy


def to_yaml(value, indent=0):
    """Block style for the outer levels, flow style for rules and other leaves, as a person would write it."""
    pad = '  ' * indent
    out = []
    for key, v in value.items():
        if isinstance(v, list) and v and all(isinstance(x, dict) for x in v):
            out.append('%s%s:\n' % (pad, key) + ''.join('%s  - %s\n' % (pad, _flow(x)) for x in v))
        elif isinstance(v, dict) and any(isinstance(x, (dict, list)) for x in v.values()):
            out.append('%s%s:\n%s' % (pad, key, to_yaml(v, indent + 1)))
        else:
            out.append('%s%s: %s\n' % (pad, key, _flow(v)))
    return ''.join(out)


def _flow(v):
    if isinstance(v, dict):
        return '{ ' + ', '.join('%s: %s' % (k, _flow(x)) for k, x in v.items()) + ' }'
    if isinstance(v, list):
        return '[' + ', '.join(_flow(x) for x in v) + ']'
    if isinstance(v, str) and (v == '' or v[0] in '-:[{&*!|>\'"%@`#,?' or ':' in v or v in ('null', 'none')):
        return json.dumps(v)
    return v if isinstance(v, str) else json.dumps(v)
