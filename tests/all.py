"""All tests: cargo's, that of the compliance table, then the end-to-end ones. The last line sums them up: N passed, N failed."""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUMS = (re.compile(r'test result: \w+\. (\d+) passed; (\d+) failed'), re.compile(r'^(\d+) passed, (\d+) failed(;|$)'))


def run(*argv):
    """Runs a command, shows its output as it comes, and returns (passed, failed) as its summaries say."""
    print('$ ' + ' '.join(argv), flush=True)
    passed = failed = 0
    with subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        for line in p.stdout:
            match = next((m for s in SUMS if (m := s.search(line.rstrip()))), None)
            if match:
                passed, failed = passed + int(match[1]), failed + int(match[2])
            print(line, end='', flush=True)
    if p.returncode and not failed:
        # It could not be built, or ended before it could count.
        print('%s: exit status %d' % (argv[0], p.returncode))
        failed = 1
    return passed, failed


def main():
    """Runs everything, also after failures."""
    sums = [run('cargo', 'test', '--workspace', '--locked', '--no-fail-fast'),
            run('cargo', 'build', '--release', '--locked', '-p', 'sluice'),
            run(sys.executable, 'tests/compliance.py'),
            run(sys.executable, 'tests/e2e')]
    passed, failed = (sum(column) for column in zip(*sums))
    print('%d passed, %d failed' % (passed, failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
