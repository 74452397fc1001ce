"""The testbed without an engine: its hosts, its policy and its load in plain network namespaces."""

import os
import re
import sys

from .engine import DOCKER
from .policy import ECHO
from .programs import wait_for
from .prometheus import Prometheus
from .topology import Lab, listens


class PlainTestbed(Lab):
    """What `containers.Testbed` is, with the programs of this machine."""

    def __init__(self):
        super().__init__()
        try:
            os.chmod(self.folder, 0o755)
            with open(os.path.join(DOCKER, 'policy', 'sluice.yaml')) as f:
                self.policy_text = re.sub(r'^control: .*$', 'control: { socket: %s, metrics: "127.0.0.1:9464" }'
                                          % self.gateway.socket, f.read(), flags=re.M)
            self.gateway.options = ['--watch']
            self.gateway.start(self.policy_text)
            for ns in (self.server, self.outside, self.client2):
                folder = self.path(ns.short + '-files')
                os.makedirs(folder)
                self._host(ns, 'serve', folder)
                wait_for(lambda: listens(ns, ECHO), 'the servers on ' + ns.short)
            self._host(self.client, 'load')
            self.prometheus = Prometheus(self)
        except BaseException:
            self.close()
            raise

    def _host(self, ns, *words):
        ns.start(sys.executable, os.path.join(DOCKER, 'host.py'), *words, log=self.path(ns.short + '.log'))
