"""Debian's Prometheus, scraping the gateway of the laboratory, and Grafana's dashboards as it would ask for them."""

import http.client
import json
import math
import os
import urllib.parse

from .gateway import ROOT
from .programs import wait_for

DOCKER = os.path.join(ROOT, 'docker')
RULES = os.path.join(DOCKER, 'prometheus', 'rules')
ADDRESS = ('127.0.0.1', 9090)


class Api:
    """What a Prometheus in a namespace knows."""

    def __init__(self, ns):
        self.ns = ns

    def _get(self, path):
        connection = http.client.HTTPConnection(*ADDRESS, timeout=10)
        with self.ns:
            connection.connect()
        connection.request('GET', path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def api(self, path, **parameters):
        """The data of an answer of the HTTP API, which must be a success."""
        status, body = self._get('/api/v1/%s?%s' % (path, urllib.parse.urlencode(parameters, doseq=True)))
        answer = json.loads(body)
        assert status == 200 and answer['status'] == 'success', '%s %s: %s' % (path, parameters, body.decode())
        return answer['data']

    def values(self, expression):
        """The values of an expression as of now, by series; those that are not numbers left out."""
        result = self.api('query', query=expression)['result']
        return [float(r['value'][1]) for r in result if not math.isnan(float(r['value'][1]))]

    def value(self, expression):
        """The sum of an expression's values, 0 when there are none."""
        return sum(self.values(expression))


class Prometheus(Api):
    """A server in the gateway's namespace, with the configuration and the rules of docker/prometheus."""

    def __init__(self, lab):
        super().__init__(lab.gw)
        with open(os.path.join(DOCKER, 'prometheus', 'prometheus.yaml')) as f:
            text = f.read()
        for there, here in (('_interval: 5s', '_interval: 1s'), ('/etc/prometheus/rules', RULES),
                            ('gateway:9464', '127.0.0.1:9464')):
            assert there in text, 'prometheus.yaml does not say %s' % there
            text = text.replace(there, here)
        config = lab.path('prometheus.yaml')
        with open(config, 'w') as f:
            f.write(text)
        lab.gw.run('promtool', 'check', 'config', config)
        self.process = self.ns.start('prometheus', '--config.file=' + config, '--web.listen-address=%s:%d' % ADDRESS,
                                     '--storage.tsdb.path=' + lab.path('tsdb'), '--log.level=warn',
                                     log=lab.path('prometheus.log'))
        wait_for(self._ready, 'Prometheus', 20)

    def _ready(self):
        assert self.process.poll() is None, 'Prometheus has ended'
        try:
            return self._get('/-/ready')[0] == 200
        except ConnectionError:
            return False


def dashboards():
    """Grafana's dashboards, by the name of their file."""
    folder = os.path.join(DOCKER, 'grafana', 'dashboards')
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name)) as f:
            out[name] = json.load(f)
    return out


def queries(board):
    """(panel, expression) of every query of a dashboard, its annotations' too, with variables as written."""
    for panel in board['panels']:
        for target in panel.get('targets', []):
            yield panel['title'], target['expr']
    for annotation in board['annotations']['list']:
        if 'expr' in annotation:
            yield annotation['name'], annotation['expr']


def substitute(expression, variables):
    """Puts values in the place of a dashboard's variables, as Grafana does before it asks."""
    for name, value in variables.items():
        expression = expression.replace('$' + name, value)
    assert '$' not in expression, 'a variable without a value: ' + expression
    return expression
