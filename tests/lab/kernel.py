"""The Linux kernel as the gateway, with nftables rules made from the same policy: the reference.

A test that fails here too is wrong itself. Understands what the tests' policies use of the language.
"""


class Kernel:
    """The gateway namespace's own stack."""

    name = 'kernel'

    def __init__(self, lab):
        self.lab = lab

    def start(self, policy):
        """Loads the rules and forwards."""
        self.lab.gw.nft(ruleset(policy))
        self.lab.gw.sysctl({'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1,
                            'net.ipv4.conf.all.send_redirects': 0, 'net.ipv4.conf.lan0.send_redirects': 0})

    def close(self):
        """Nothing: the namespace's end is the end of its rules."""

    def conntrack(self, *_):
        """The connection table, one line each."""
        return self.lab.gw.run('conntrack', '-L').stdout.splitlines() + \
            self.lab.gw.run('conntrack', '-f', 'ipv6', '-L').stdout.splitlines()

    def counted(self):
        """Nothing that a report needs."""
        return []

    def check(self):
        """Nothing is kept that could be wrong."""


def _destination(translate):
    if translate == 'redirect':
        return 'redirect'
    port = ':%d' % translate['port'] if 'port' in translate else ''
    if 'redirect' in translate:
        return 'redirect to ' + port
    return 'dnat ip to %s%s' % (translate['to'], port)


def ruleset(policy):
    """The policy in nft's language."""
    zones = {}
    for i in policy['interfaces'].values():
        zones.setdefault(i['zone'], []).append(i['device'])

    def devices(keyword, names):
        names = [names] if isinstance(names, str) else names
        return '%s { %s } ' % (keyword, ', '.join(d for n in names for d in zones[n])) if names else ''

    def matches(m, prerouting=False):
        out = devices('iifname', m.get('from', []))
        out += '' if prerouting else devices('oifname', m.get('to', []))
        for key, word in (('source', 'saddr'), ('destination', 'daddr')):
            if key in m:
                out += '%s %s %s ' % ('ip6' if ':' in m[key] else 'ip', word, m[key])
        protocols = m.get('protocol', ['tcp', 'udp'] if 'port' in m else [])
        protocols = [protocols] if isinstance(protocols, str) else protocols
        if protocols:
            out += 'meta l4proto { %s } ' % ', '.join(protocols)
        if 'port' in m:
            out += 'th dport %s ' % m['port']
        if 'state' in m:
            states = m['state'] if isinstance(m['state'], list) else [m['state']]
            out += 'ct state { %s } ' % ', '.join(states)
        if 'status' in m:
            out += 'ct status dnat '
        return out

    def both(rule):
        return dict(rule.get('match', {}), **{k: rule[k] for k in ('from', 'to') if k in rule})

    actions = {'accept': ['accept'], 'drop': ['drop'],
               'reject': ['meta l4proto tcp reject with tcp reset', 'reject with icmpx port-unreachable']}
    nat = policy.get('nat', {})
    forward = [matches(r['match']) + a for r in policy['policy']['rules'] for a in actions[r['action']]]
    forward += actions[policy['policy'].get('default', 'drop')]
    before = [matches(both(r), True) + _destination(r['translate']) for r in nat.get('destination', [])]
    after = []
    for r in nat.get('source', []):
        t = r['translate']
        target = {'masquerade': 'masquerade', 'none': 'accept'}.get(t) if isinstance(t, str) else \
            'snat ip to %s%s' % (t['pool'][0], ':' + t['ports'] if 'ports' in t else '')
        after.append(matches(both(r)) + target)
    return '''
        table inet gateway {
          chain forward { type filter hook forward priority filter
            %s
          }
          chain before { type nat hook prerouting priority dstnat
            %s
          }
          chain after { type nat hook postrouting priority srcnat
            %s
          }
        }''' % tuple('\n            '.join(lines) for lines in (forward, before, after))
