//! Network devices by rtnetlink: what a device is, which XDP program it has, and attaching one.
//!
//! Netlink rather than `/sys/class/net`, which shows another network namespace's devices to a process
//! started with `nsenter --net`; and rather than a library's attach call, because the kernel's own words
//! for refusing ("Peer MTU is too large to set XDP") come back only in the extended acknowledgement.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::io::ethtool;

/// A device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's name for it.
    pub name: String,
    /// The kernel's index.
    pub index: u32,
    /// Whether its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Its Ethernet address; zero when it is not an Ethernet device.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Receive queues in use, at least 1.
    pub rx_queues: u32,
    /// The attached XDP programs' ids, by mode.
    pub xdp: Vec<(XdpMode, u32)>,
}

/// Where in the kernel an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before an skb exists.
    Native,
    /// In the network core, on an skb; works on every device.
    Generic,
    /// In the network card.
    Offloaded,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Offloaded => "offloaded",
        })
    }
}

/// What the kernel answered to a request, with its own explanation where it gave one.
#[derive(Debug)]
pub struct Refused {
    /// The error number.
    pub error: io::Error,
    /// The extended acknowledgement's message.
    pub message: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(m) => write!(f, "{m} ({})", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused { error, message: None }
    }
}

// From linux/if_link.h and linux/netlink.h.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Length of `struct nlmsghdr` and of `struct ifinfomsg`.
const HEADER: usize = 16;
const IFINFO: usize = 16;

impl Link {
    /// The device of that name.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn find(name: &str) -> Result<Link, Refused> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(io::Error::from_raw_os_error(libc::ENODEV).into());
        }
        let mut request = Request::new(libc::RTM_GETLINK, 0);
        request.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        request.attribute(libc::IFLA_EXT_MASK, &(libc::RTEXT_FILTER_SKIP_STATS as u32).to_ne_bytes());
        let answer = request.send()?;
        let mut link = Link::parse(&answer).ok_or_else(|| io::Error::other("truncated netlink answer"))?;
        // The attribute counts the queues allocated; some of them may be disabled.
        if let Ok(Some(n)) = ethtool::queues(name) {
            link.rx_queues = n;
        }
        Ok(link)
    }

    fn parse(message: &[u8]) -> Option<Link> {
        let info = message.get(HEADER..HEADER + IFINFO)?;
        let kind = u16::from_ne_bytes(info[2..4].try_into().ok()?);
        let mut link = Link {
            name: String::new(),
            index: number(&info[4..8])?,
            ethernet: kind == libc::ARPHRD_ETHER,
            mac: [0; 6],
            mtu: 0,
            rx_queues: 1,
            xdp: Vec::new(),
        };
        for (kind, value) in attributes(&message[HEADER + IFINFO..]) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = number(value)?,
                libc::IFLA_NUM_RX_QUEUES => link.rx_queues = number(value)?.max(1),
                libc::IFLA_ADDRESS if link.ethernet => link.mac = value.try_into().ok()?,
                IFLA_XDP => link.xdp = programs(value),
                _ => (),
            }
        }
        Some(link)
    }
}

/// Attaches `program` to a device, in place of `expected` when given; else only where no program is attached.
///
/// # Errors
/// The kernel's refusal, as when the driver does not support the mode or another program is attached (`EBUSY`, `EEXIST`).
pub fn attach_xdp(
    index: u32,
    program: BorrowedFd<'_>,
    mode: XdpMode,
    expected: Option<BorrowedFd<'_>>,
) -> Result<(), Refused> {
    set_xdp(index, program.as_raw_fd(), mode, expected)
}

/// Detaches `expected` from a device.
///
/// # Errors
/// The kernel's refusal, as when another program is attached (`EEXIST`) or the device is gone (`ENODEV`).
pub fn detach_xdp(index: u32, mode: XdpMode, expected: BorrowedFd<'_>) -> Result<(), Refused> {
    set_xdp(index, -1, mode, Some(expected))
}

fn set_xdp(index: u32, program: i32, mode: XdpMode, expected: Option<BorrowedFd<'_>>) -> Result<(), Refused> {
    let mode_flag = match mode {
        XdpMode::Generic => 1 << 1,
        XdpMode::Native => 1 << 2,
        XdpMode::Offloaded => 1 << 3,
    };
    let condition = if expected.is_some() { XDP_FLAGS_REPLACE } else { XDP_FLAGS_UPDATE_IF_NOEXIST };
    let mut nested = Vec::new();
    push_attribute(&mut nested, IFLA_XDP_FD, &program.to_ne_bytes());
    push_attribute(&mut nested, IFLA_XDP_FLAGS, &(mode_flag | condition).to_ne_bytes());
    if let Some(fd) = expected {
        push_attribute(&mut nested, IFLA_XDP_EXPECTED_FD, &fd.as_raw_fd().to_ne_bytes());
    }
    let mut request = Request::new(libc::RTM_SETLINK, index);
    request.attribute(IFLA_XDP | libc::NLA_F_NESTED as u16, &nested);
    request.send().map(|_| ())
}

/// An rtnetlink request about one device.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, index: u32) -> Self {
        let mut m = vec![0; HEADER + IFINFO];
        m[4..6].copy_from_slice(&kind.to_ne_bytes());
        m[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
        m[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
        Request(m)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        push_attribute(&mut self.0, kind, value);
    }

    /// Sends it and returns the answer: the first message that is not the acknowledgement, or that one.
    fn send(mut self) -> Result<Vec<u8>, Refused> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let socket = open()?;
        // SAFETY: the pointer and length are the vector's own.
        if unsafe { libc::send(socket.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0) } < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let mut buffer = vec![0u8; 1 << 16];
        // SAFETY: as above; the kernel writes at most the vector's length.
        let n = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if n < 0 {
            return Err(io::Error::last_os_error().into());
        }
        buffer.truncate(n as usize);
        refusal(&buffer).map_or(Ok(()), Err)?;
        Ok(buffer)
    }
}

/// The refusal that a message carries, if it does.
fn refusal(message: &[u8]) -> Option<Refused> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let code = message.get(HEADER..HEADER + 4).and_then(number).map_or(0, |n| n as i32);
    if i32::from(kind) != libc::NLMSG_ERROR || code == 0 {
        return None;
    }
    // The kernel was asked to leave out the request's payload (NETLINK_CAP_ACK): its header is all that
    // stands between the code and the attributes.
    let rest = message.get(HEADER + 4 + HEADER..).unwrap_or_default();
    let message = attributes(rest).find(|(k, _)| *k == NLMSGERR_ATTR_MSG).map(|(_, v)| text(v));
    Some(Refused { error: io::Error::from_raw_os_error(-code), message })
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: `on` is readable for its size. Without the option only the message's text is missing.
        unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
    }
    Ok(socket)
}

fn programs(nested: &[u8]) -> Vec<(XdpMode, u32)> {
    // IFLA_XDP_PROG_ID repeats the only program's id; the attributes per mode came with Linux 4.16.
    attributes(nested)
        .filter_map(|(kind, value)| {
            let mode = match kind {
                IFLA_XDP_DRV_PROG_ID => XdpMode::Native,
                IFLA_XDP_SKB_PROG_ID => XdpMode::Generic,
                IFLA_XDP_HW_PROG_ID => XdpMode::Offloaded,
                IFLA_XDP_PROG_ID | IFLA_XDP_ATTACHED => return None,
                _ => return None,
            };
            number(value).map(|id| (mode, id))
        })
        .collect()
}

fn push_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found() {
        let lo = Link::find("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.index), ("lo", 1));
        assert!(!lo.ethernet && lo.mtu > 0 && lo.rx_queues == 1);
    }

    #[test]
    fn a_device_that_does_not_exist_is_refused() {
        for name in ["io-nothing", "", "a-name-longer-than-any-device", "a\0b"] {
            assert_eq!(Link::find(name).unwrap_err().error.raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }

    #[test]
    fn attributes_stop_at_a_length_that_does_not_fit() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 7, b"abc");
        bytes.extend_from_slice(&[200, 0, 1, 0]);
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(7, &b"abc"[..])]);
        assert_eq!(attributes(&[3, 0, 1, 0, 0, 0]).count(), 0);
    }
}
