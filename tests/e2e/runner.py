"""Registers tests, selects them by name, runs each in a laboratory of its own, reports."""

import argparse
import fnmatch
import inspect
import sys
import time
import traceback

from lab.policy import base
from lab.topology import Lab, exit_on_signals

TESTS = []
# Failed tests that are tried once more. A stalled machine disturbs one test in some hundreds; what fails twice
# in a row, or in more tests than this, is a defect.
SECOND_TRIES = 3


def test(workers=(1,), rows=(None,), kernel=True, start=True, **lab):
    """Marks a test: a function of the laboratory, and of the row when there is a table of rows.

    It runs once for each number of workers and each row (the row's first value is its name). `start` is
    False when the test starts the gateway itself, `kernel` when the kernel can stand in for Sluice; the
    other arguments are the laboratory's.
    """
    def register(f):
        subject = f.__module__.removeprefix('subjects.')
        for n in workers:
            for row in rows:
                name = '%s.%s' % (subject, f.__name__) + ('[%s]' % row[0] if row else '') + \
                    ('/%d' % n if len(workers) > 1 else '')
                # The kernel has no workers: once is enough for it.
                TESTS.append(Case(name, f, n, row, kernel and n == workers[0], start, lab))
        return f
    return register


class Case:
    """A test with its number of workers and its row."""

    def __init__(self, name, function, workers, row, kernel, start, lab):
        self.name, self.function, self.workers, self.row = name, function, workers, row
        self.kernel, self.start, self.lab = kernel, start, lab

    def run(self, backend, keep):
        """Runs it and returns what failed, None if nothing did."""
        lab = None
        try:
            with Lab(backend=backend, **dict({'queues': self.workers}, **self.lab)) as lab:
                lab.workers = self.workers
                try:
                    if self.start:
                        lab.gateway.start(base(self.workers))
                    self.function(lab, *([self.row] if self.row else []))
                    leaked, bad = lab.leaked(), lab.bad_checksums()
                    if leaked and not lab.leaks_wanted:
                        raise AssertionError('%d packets left with an inside source address' % leaked)
                    if bad:
                        raise AssertionError('packets with a wrong checksum: %s' % bad)
                    lab.gateway.check()
                except Exception as e:
                    report = '%s\n%s' % (_where(e), lab.logs())
                    if keep:
                        print('\n%s\n%s\nkept: namespaces %s*, files %s; Enter removes them'
                              % (self.name, report, lab.prefix, lab.folder))
                        sys.stdin.readline()
                    return report
        except Exception as e:
            return _where(e)
        return None


def _where(e):
    """The failure, and the line of the test it came from."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if '/subjects/' in f.filename]
    at = ' (%s:%d)' % (frames[-1].filename.rsplit('/', 1)[1], frames[-1].lineno) if frames else \
        '\n' + ''.join(traceback.format_tb(e.__traceback__)[-3:])
    return '%s%s%s' % ('' if isinstance(e, AssertionError) else type(e).__name__ + ': ', e, at)


def main():
    """The command line; returns the exit status."""
    ap = argparse.ArgumentParser(prog='tests/e2e', description='End-to-end tests in network namespaces.')
    ap.add_argument('names', nargs='*', help='globs or parts of names; default: all')
    ap.add_argument('--gateway', choices=['sluice', 'kernel'], default='sluice',
                    help='kernel: nftables instead of Sluice, to test the tests')
    ap.add_argument('--list', action='store_true', help='print the names')
    ap.add_argument('--keep', action='store_true', help='stop at a failed test with its namespaces in place')
    opt = ap.parse_args()
    chosen = [t for t in TESTS if not opt.names or any(fnmatch.fnmatch(t.name, n) or n in t.name for n in opt.names)]
    if opt.gateway == 'kernel':
        chosen = [t for t in chosen if t.kernel]
    if opt.list:
        print('\n'.join('%-50s %s' % (t.name, (inspect.getdoc(t.function) or '').split('\n')[0]) for t in chosen))
        return 0
    if not chosen:
        ap.error('no test has such a name')
    exit_on_signals()
    failed, again = [], []

    def attempt(t):
        started = time.monotonic()
        report = t.run(opt.gateway, opt.keep)
        print('%-4s %-62s %5.1f s' % ('FAIL' if report else 'ok', t.name, time.monotonic() - started), flush=True)
        if report:
            print('     ' + report.replace('\n', '\n     '), flush=True)
        return not report

    try:
        for t in chosen:
            if attempt(t):
                continue
            if len(again) < SECOND_TRIES and not opt.keep:
                again.append(t.name)
                if attempt(t):
                    continue
            failed.append(t.name)
    except KeyboardInterrupt:
        print('interrupted; namespaces removed')
        return 130
    for name in failed:
        print('failed: ' + name)
    print(summary(len(chosen), failed, [name for name in again if name not in failed]))
    return 1 if failed else 0


def summary(count, failed, second):
    """The last line: what a second try has hidden is said there too."""
    text = '%d passed, %d failed' % (count - len(failed), len(failed))
    return text + ('; %d needed a second try: %s' % (len(second), ', '.join(second)) if second else '')
