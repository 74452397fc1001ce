"""The servers on the laboratory's hosts, as a program: server.py HTTP_PORT ECHO_PORT FOLDER

HTTP, IPv4 and IPv6: GET /NAME sends a file of FOLDER, GET /whoami the client's address and port, PUT /NAME
stores a file and answers with its SHA-256. Echo: every line over TCP and every datagram comes back with the
sender's address and port, as the server sees them, in front.
"""

import hashlib
import http.server
import os
import shutil
import socket
import socketserver
import sys
import threading


def _address(client):
    return '%s %d' % (client[0].removeprefix('::ffff:'), client[1])


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        if self.path == '/whoami':
            body = (_address(self.client_address) + '\n').encode()
            self._head(200, len(body))
            self.wfile.write(body)
            return
        try:
            with open(self._file(), 'rb') as f:
                self._head(200, os.fstat(f.fileno()).st_size)
                shutil.copyfileobj(f, self.wfile, 1 << 18)
        except FileNotFoundError:
            self._head(404, 0)

    def do_PUT(self):
        left, digest = int(self.headers['Content-Length']), hashlib.sha256()
        with open(self._file(), 'wb') as f:
            while left:
                chunk = self.rfile.read(min(left, 1 << 18))
                if not chunk:
                    return
                f.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
        body = digest.hexdigest().encode() + b'\n'
        self._head(201, len(body))
        self.wfile.write(body)

    def _file(self):
        return os.path.join(self.server.folder, os.path.basename(self.path))

    def _head(self, status, length):
        self.send_response(status)
        self.send_header('Content-Length', str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


class EchoTcp(socketserver.StreamRequestHandler):
    def handle(self):
        prefix = _address(self.client_address).encode() + b' '
        try:
            for line in self.rfile:
                self.request.sendall(prefix + line)
        except ConnectionError:
            pass


class EchoUdp(socketserver.BaseRequestHandler):
    def handle(self):
        data, ancillary, sock = self.request
        answer = _address(self.client_address).encode() + b' ' + data
        # IPV6_PKTINFO as received makes the answer come from the address that was asked.
        pktinfo = [a for a in ancillary if a[1] == socket.IPV6_PKTINFO]
        sock.sendmsg([answer], [(level, kind, value[:16] + bytes(4)) for level, kind, value in pktinfo], 0,
                     self.client_address)


class DualStack:
    """Both families on one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


class HttpServer(DualStack, http.server.ThreadingHTTPServer):
    pass


class TcpServer(DualStack, socketserver.ThreadingTCPServer):
    pass


class UdpServer(DualStack, socketserver.UDPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        super().server_bind()

    def get_request(self):
        data, ancillary, _, address = self.socket.recvmsg(65536, 256)
        return (data, ancillary, self.socket), address

    def shutdown_request(self, request):
        pass


def main():
    http_port, echo_port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    web = HttpServer(('::', http_port), Http)
    web.folder = folder
    servers = [web, TcpServer(('::', echo_port), EchoTcp), UdpServer(('::', echo_port), EchoUdp)]
    for s in servers[1:]:
        threading.Thread(target=s.serve_forever, daemon=True).start()
    web.serve_forever()


if __name__ == '__main__':
    main()
