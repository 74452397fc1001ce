"""As much of IRC as a direct connection (DCC) between two clients needs: a server that passes messages on, clients."""

import contextlib
import re
import socket
import socketserver
import threading


class _Session(socketserver.StreamRequestHandler):
    """One client's connection, on the server."""

    def handle(self):
        nick = None
        with contextlib.suppress(ConnectionError):
            for line in self.rfile:
                command, _, rest = line.rstrip(b'\r\n').partition(b' ')
                if command == b'NICK':
                    nick = rest
                    self.server.sessions[nick] = self
                    self.wfile.write(b':irc 001 %s :Welcome\r\n' % nick)
                elif command == b'PRIVMSG':
                    whom, _, text = rest.partition(b' :')
                    self.server.sessions[whom].wfile.write(b':%s PRIVMSG %s :%s\r\n' % (nick, whom, text))


class Server(socketserver.ThreadingTCPServer):
    """A server on a host; `with Server(...)` ends it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, ns, address, port):
        self.sessions = {}
        with ns:
            super().__init__((address, port), _Session)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *what):
        self.shutdown()
        super().__exit__(*what)


class Client:
    """A client on a host, logged in."""

    def __init__(self, ns, address, port, nick):
        with ns:
            self.socket = socket.socket()
        self.socket.settimeout(5)
        self.socket.connect((address, port))
        self.lines = self.socket.makefile('rb')
        self._send('NICK ' + nick)
        assert b' 001 ' in self.lines.readline()

    def _send(self, line):
        self.socket.sendall(line.encode() + b'\r\n')

    def say(self, whom, text):
        """Sends a message."""
        self._send('PRIVMSG %s :%s' % (whom, text))

    def invite(self, whom, command, address, port):
        """Invites to a direct connection to an address and port of one's own."""
        number = int.from_bytes(socket.inet_aton(address), 'big')
        tail = ' 1000' if command == 'SEND' else ''
        self.say(whom, '\1DCC %s %s %d %d%s\1' % (command, 'file' if command == 'SEND' else 'chat', number, port, tail))

    def hear(self):
        """The text of the next message."""
        return self.lines.readline().decode().rstrip('\r\n').split(' :', 1)[1]

    def invited(self):
        """The command, address and port of the invitation that comes next."""
        m = re.fullmatch('\1DCC (\\S+) \\S+ (\\d+) (\\d+)( 1000)?\1', self.hear())
        return m[1], socket.inet_ntoa(int(m[2]).to_bytes(4, 'big')), int(m[3])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.socket.close()
