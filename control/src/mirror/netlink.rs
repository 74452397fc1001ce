//! Two kinds of rtnetlink sockets: one to ask (dumps and orders), one to listen for changes.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Multicast groups of the changes that are mirrored (`RTNLGRP_*` of linux/rtnetlink.h): links,
/// neighbours, IPv4 addresses, IPv4 routes, IPv6 addresses, IPv6 routes.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// Room for changes that arrive while a snapshot is being built, in bytes. The kernel grants at most
/// `net.core.rmem_max`; what does not fit costs a resynchronization.
const LISTEN_BUFFER: libc::c_int = 8 << 20;
/// The most changes handled before the caller gets to do something else.
const CHANGES_AT_ONCE: usize = 4096;

/// An rtnetlink socket.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// A socket to ask the kernel with.
    pub(super) fn to_ask() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, buffer: Vec::with_capacity(256 << 10), sequence: 0 })
    }

    /// A socket that gets every change from now on; it does not block.
    pub(super) fn to_listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_rx_buf_sz(LISTEN_BUFFER)?;
        socket.bind_auto()?;
        for g in GROUPS {
            socket.add_membership(g)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Netlink { socket, buffer: Vec::with_capacity(256 << 10), sequence: 0 })
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut m = NetlinkMessage::new(header, NetlinkPayload::from(message));
        m.finalize();
        let mut b = vec![0; m.buffer_len()];
        m.serialize(&mut b);
        self.socket.send(&b, 0).map(drop)
    }

    /// Reads one datagram and calls `each` with the flags and content of every message in it.
    fn receive(&mut self, mut each: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut rest = &self.buffer[..];
        while let Ok(m) = NetlinkBuffer::new_checked(rest) {
            // Messages begin on multiples of four bytes (NLMSG_ALIGN).
            let length = (m.length() as usize).next_multiple_of(4).min(rest.len());
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
                Ok(m) => each(m.header, m.payload),
                Err(e) => tracing::warn!("a netlink message of type {} cannot be read: {e}", m.message_type()),
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    /// Asks for a dump and calls `each` with every object.
    ///
    /// # Errors
    /// `Interrupted` when the kernel's table changed in the middle, so that objects may be missing.
    pub(super) fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.send(request, NLM_F_DUMP)?;
        let sequence = self.sequence;
        let (mut done, mut interrupted) = (None, false);
        while done.is_none() {
            self.receive(|header, payload| {
                if header.sequence_number != sequence {
                    return;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(m) => each(m),
                    NetlinkPayload::Done(d) if d.code < 0 => done = Some(Err(io::Error::from_raw_os_error(-d.code))),
                    NetlinkPayload::Done(_) => done = Some(Ok(())),
                    NetlinkPayload::Error(e) => done = Some(Err(e.to_io())),
                    _ => {}
                }
            })?;
        }
        match done {
            Some(Ok(())) if interrupted => Err(io::ErrorKind::Interrupted.into()),
            Some(r) => r,
            None => unreachable!("the loop ends with an answer"),
        }
    }

    /// Gives an order and waits for the kernel's answer, which comes at once.
    pub(super) fn order(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags | NLM_F_ACK)?;
        let sequence = self.sequence;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|header, payload| {
                if let NetlinkPayload::Error(e) = payload
                    && header.sequence_number == sequence
                {
                    answer = Some(if e.code.is_some() { Err(e.to_io()) } else { Ok(()) });
                }
            })?;
        }
        answer.unwrap_or(Ok(()))
    }

    /// Calls `each` with the message flags and content of the changes that have arrived, at most some
    /// thousands. Returns whether there may be more.
    ///
    /// # Errors
    /// `ENOBUFS` when changes were lost and everything must be dumped again.
    pub(super) fn changes(&mut self, mut each: impl FnMut(u16, RouteNetlinkMessage)) -> io::Result<bool> {
        let mut n = 0;
        while n < CHANGES_AT_ONCE {
            let read = self.receive(|header, payload| {
                n += 1;
                if let NetlinkPayload::InnerMessage(m) = payload {
                    each(header.flags, m);
                }
            });
            match read {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}
