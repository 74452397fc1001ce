"""What a STUN client finds out about the gateway (RFC 5780), by coturn's server and discovery tool."""

import concurrent.futures

from lab.policy import *
from lab.programs import udp_socket, wait_for
from runner import test

STUN = 3478
DEPENDENT = 'Address and Port Dependent'
INDEPENDENT = 'Endpoint Independent'


def independent(filtering):
    """A masquerade with endpoint-independent mapping."""
    return {'masquerade': True, 'mapping': 'endpoint-independent', 'filtering': filtering}


def discover(lab, option, port):
    """The last line of what the tool prints about the client's port."""
    out = lab.client.run('turnutils_natdiscovery', option, '-L', CLIENT, '-l', port, '-p', STUN, OUTSIDE,
                         check=False).stdout
    lines = [line for line in out.splitlines() if line.strip(' =')]
    return lines[-1].strip() if lines else ''


@test(workers=(2,), start=False, rows=(
    ('default', 'masquerade', 'Address Dependent', DEPENDENT, False),
    ('endpoint_dependent', independent('endpoint-dependent'), INDEPENDENT, DEPENDENT, False),
    ('address_dependent', independent('address-dependent'), INDEPENDENT, 'Address Dependent', False),
    ('endpoint_independent', independent('endpoint-independent'), INDEPENDENT, INDEPENDENT, True)))
def discovery(lab, row):
    """The kinds of mapping and of filtering, and whether hairpinning works, when another client has the same port."""
    name, translate, mapping, filtering, hairpin = row
    policy = base(lab.workers)
    policy['nat']['source'][0]['translate'] = translate
    lab.gateway.start(policy)
    # Two addresses with two ports each: the other address and the other port are for the tool's tests.
    lab.outside.start('turnserver', '-n', '--listening-ip', OUTSIDE, '--listening-ip', REMOTE, '--listening-port', STUN,
                      '--stun-only', '--no-auth', '--no-tcp', '--no-tls', '--no-dtls', '--no-cli', '--log-file', 'stdout',
                      '--pidfile', lab.path('turn.pid'), '--userdb', lab.path('turn.db'), log=lab.path('turn.log'))
    wait_for(lambda: len(lab.outside.run('ss', '-Hlun', 'sport >= :%d and sport <= :%d' % (STUN, STUN + 1)).stdout
                         .splitlines()) >= 4, 'turnserver')
    with udp_socket(lab.client2, ('', 5000)) as other:
        other.sendto(b'taken', (REMOTE, STUN))
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda o: discover(lab, *o), (('-m', 5000), ('-f', 5001), ('-H', 5002))))
    assert found[0] == 'NAT with %s Mapping!' % mapping, found
    assert found[1] == 'NAT with %s Filtering!' % filtering, found
    assert ('successful hairpinning' in found[2]) == hairpin, found
