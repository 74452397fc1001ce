"""docker/: what can be said of the testbed's files without an engine. `make testbed-test` runs them."""

import os
import py_compile
import re
import subprocess

from lab.gateway import ROOT, binary
from lab.namespace import run
from lab.prometheus import DOCKER
from lab.tour import commands
from runner import test

NODES = {'gateway', 'client', 'client2', 'server', 'outside'}


def read(name):
    """A file of docker/."""
    with open(os.path.join(DOCKER, name)) as f:
        return f.read()


def services():
    """The compose file's services: name and text."""
    text = read('compose.yaml').split('\nservices:\n')[1].split('\nnetworks:\n')[0]
    return dict(re.findall(r'^  (\w+):\n((?:    .*\n|\n|  #.*\n)+)', text, re.M))


@test(start=False, kernel=False)
def files(lab):
    """Scripts have no fault of syntax; the policy is valid, without a warning."""
    run('sh', '-n', os.path.join(DOCKER, 'wire'))
    py_compile.compile(os.path.join(DOCKER, 'host.py'), cfile=lab.path('host.pyc'), doraise=True)
    py_compile.compile(os.path.join(ROOT, 'tests', 'testbed'), cfile=lab.path('testbed.pyc'), doraise=True)
    r = run(binary(), 'check', os.path.join(DOCKER, 'policy', 'sluice.yaml'))
    assert 'is valid' in r.stdout and 'warning' not in r.stderr, r.stdout + r.stderr


@test(start=False, kernel=False)
def compose_file(lab):
    """Every service that the issue of the testbed names is there; images are pinned, targets and mounted files exist,
    and the capabilities are those that Dockerfile and README give reasons for."""
    found, dockerfile = services(), read('Dockerfile')
    assert set(found) == NODES | {'wire', 'prometheus', 'grafana'}, set(found)
    text = read('compose.yaml')
    for target in re.findall(r'target: (\w+)', text):
        assert re.search(r'^FROM \S+ AS %s$' % target, dockerfile, re.M), target
    for image in re.findall(r'image: ([^$\s]+)$', text, re.M) + re.findall(r'^FROM ([a-z/]+\S*)', dockerfile, re.M):
        assert image == 'scratch' or re.search(r':[\w.-]*(\d|bookworm)', image) and 'latest' not in image, image
    for path in re.findall(r'(\./[\w./-]+):/', text) + re.findall(r':-(\./\w+)\}', text):
        assert os.path.exists(os.path.join(DOCKER, path)), path
    for source in re.findall(r'^COPY (?!--from)(.+) \S+$', dockerfile, re.M):
        for path in source.split():
            assert path.startswith('target/') or os.path.exists(os.path.join(ROOT, path)), path
    wanted = set(re.search(r'cap_add: \[(.*)\]', found['gateway'])[1].split(', '))
    assert wanted == set(re.findall(r'^#   ([A-Z_]+)  ', dockerfile, re.M)), wanted
    assert wanted == set(re.findall(r'^\| ([A-Z_]+) \|', read('README.md'), re.M)), wanted
    assert 'cap_drop: [ALL]' in found['gateway'] and 'privileged' not in text
    # Cables are laid between the nodes that are there.
    for node in NODES:
        assert '}.%s"' % node in found[node] and '$(process %s)' % node in read('wire'), node


@test(start=False, kernel=False)
def tour(lab):
    """The tour's commands name services, files and verbs that exist, and the shell finds no fault in them."""
    script = commands()
    subprocess.run(['bash', '-n', '-c', script], check=True)
    verbs = run(binary(), '--help').stdout
    for node in re.findall(r'docker compose exec (\w+)', script):
        assert node in NODES, node
    used = set(re.findall(r'exec gateway sluice (\w+)', script))
    assert used >= {'health', 'status', 'conntrack', 'rules'}
    for verb in used:
        assert re.search(r'^  %s ' % verb, verbs, re.M), verb
    for found, replaced in re.findall(r"s/([^/]+)/([^/]+)/", script)[:2]:
        assert found.lstrip('^') in read('policy/sluice.yaml'), found
        assert replaced
