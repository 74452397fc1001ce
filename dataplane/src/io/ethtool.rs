//! What the driver tells through `SIOCETHTOOL`: its name, its queues, how it spreads flows over them.
//!
//! Every question has the answer `None` where the driver does not know it, as veth knows no RSS.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// From linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRSSH: u32 = 0x46;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_RSS_HASH_TOP: u8 = 1 << 0;
const ETH_RSS_HASH_XOR: u8 = 1 << 1;
const ETH_RSS_HASH_CRC32: u8 = 1 << 2;
const RXH_L4_B_0_1: u64 = 1 << 6;
const RXH_L4_B_2_3: u64 = 1 << 7;

/// Which traffic a question about hashed header fields is about; the values are the kernel's flow types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Flow {
    /// TCP over IPv4.
    Tcp4 = 1,
    /// UDP over IPv4.
    Udp4 = 2,
    /// TCP over IPv6.
    Tcp6 = 5,
    /// UDP over IPv6.
    Udp6 = 6,
}

/// The function a card hashes a flow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    /// Toeplitz, the usual one.
    Toeplitz,
    /// The key's and the fields' bytes combined by exclusive or.
    Xor,
    /// CRC-32.
    Crc32,
    /// One the kernel has no name for.
    Unknown,
}

/// How a card spreads flows over its receive queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    /// The hash function.
    pub function: HashFunction,
    /// The hash is computed over source and destination combined (`input_xfrm`), so both directions hash alike.
    pub symmetric: bool,
    /// The hash key; 40 bytes for most cards.
    pub key: Vec<u8>,
    /// The queue of each hash value modulo the table's length.
    pub table: Vec<u32>,
}

/// The driver's name, `veth`.
///
/// # Errors
/// `ENODEV` when there is no such device.
pub fn driver(device: &str) -> io::Result<Option<String>> {
    // struct ethtool_drvinfo: cmd, driver[32], version[32], ... 196 bytes in all.
    let mut info = request(ETHTOOL_GDRVINFO, 196);
    Ok(ask(device, &mut info)?.then(|| {
        let name = &info[4..36];
        String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    }))
}

/// The number of receive queues in use.
///
/// # Errors
/// `ENODEV` when there is no such device.
pub fn queues(device: &str) -> io::Result<Option<u32>> {
    // struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
    let mut channels = request(ETHTOOL_GCHANNELS, 36);
    Ok(ask(device, &mut channels)?.then(|| word(&channels, 20) + word(&channels, 32)).filter(|n| *n > 0))
}

/// How the card spreads flows over queues.
///
/// # Errors
/// `ENODEV` when there is no such device.
pub fn rss(device: &str) -> io::Result<Option<Rss>> {
    // struct ethtool_rxfh: cmd, rss_context, indir_size, key_size, hfunc, input_xfrm, rsvd8[2], rsvd32, then the
    // table and the key. Asked with zero sizes it answers with the sizes.
    const FIXED: usize = 24;
    let mut sizes = request(ETHTOOL_GRSSH, FIXED);
    if !ask(device, &mut sizes)? {
        return Ok(None);
    }
    let (entries, key) = (word(&sizes, 8) as usize, word(&sizes, 12) as usize);
    if entries == 0 || key == 0 {
        return Ok(None);
    }
    let mut rxfh = request(ETHTOOL_GRSSH, FIXED + 4 * entries + key);
    rxfh[8..12].copy_from_slice(&(entries as u32).to_ne_bytes());
    rxfh[12..16].copy_from_slice(&(key as u32).to_ne_bytes());
    if !ask(device, &mut rxfh)? {
        return Ok(None);
    }
    let function = match rxfh[16] {
        ETH_RSS_HASH_TOP => HashFunction::Toeplitz,
        ETH_RSS_HASH_XOR => HashFunction::Xor,
        ETH_RSS_HASH_CRC32 => HashFunction::Crc32,
        _ => HashFunction::Unknown,
    };
    let table = (0..entries).map(|i| word(&rxfh, FIXED + 4 * i)).collect();
    // 0xff is the kernel's "no change", which drivers that know no transformation leave in place.
    let symmetric = !matches!(rxfh[17], 0 | 0xff);
    Ok(Some(Rss { function, symmetric, key: rxfh[FIXED + 4 * entries..].to_vec(), table }))
}

/// Whether the ports of a flow take part in its hash, beside the addresses. Many cards leave them out for UDP.
///
/// # Errors
/// `ENODEV` when there is no such device.
pub fn hashes_ports(device: &str, flow: Flow) -> io::Result<Option<bool>> {
    // struct ethtool_rxnfc: cmd, flow_type, data (u64), and a rule that this question does not use; 192 bytes in all.
    let mut rxnfc = request(ETHTOOL_GRXFH, 192);
    rxnfc[4..8].copy_from_slice(&(flow as u32).to_ne_bytes());
    Ok(ask(device, &mut rxnfc)?.then(|| {
        let fields = u64::from(word(&rxnfc, 8)) | u64::from(word(&rxnfc, 12)) << 32;
        let fields = if cfg!(target_endian = "big") { fields.rotate_left(32) } else { fields };
        fields & (RXH_L4_B_0_1 | RXH_L4_B_2_3) == RXH_L4_B_0_1 | RXH_L4_B_2_3
    }))
}

/// Whether the card takes VLAN tags off received frames. XDP then sees frames of any VLAN as untagged:
/// `ethtool -K DEVICE rxvlan off`.
///
/// # Errors
/// `ENODEV` when there is no such device.
pub fn strips_vlan(device: &str) -> io::Result<Option<bool>> {
    let mut flags = request(ETHTOOL_GFLAGS, 8);
    Ok(ask(device, &mut flags)?.then(|| word(&flags, 4) & ETH_FLAG_RXVLAN != 0))
}

fn request(command: u32, length: usize) -> Vec<u8> {
    let mut r = vec![0; length];
    r[..4].copy_from_slice(&command.to_ne_bytes());
    r
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Puts a question to the driver; `false` when it does not know the answer.
fn ask(device: &str, question: &mut [u8]) -> io::Result<bool> {
    if device.is_empty() || device.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = question.as_mut_ptr().cast();
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `ifreq` points to `question`, which has the full length that its command writes, as each caller saw to.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut ifreq) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENODEV) => Err(e),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_nothing_about_queues() {
        assert_eq!(queues("lo").unwrap(), None);
        assert_eq!(rss("lo").unwrap(), None);
        assert_eq!(hashes_ports("lo", Flow::Udp4).unwrap(), None);
        assert_eq!(strips_vlan("lo").unwrap(), Some(false));
    }

    #[test]
    fn a_device_that_does_not_exist_is_an_error() {
        assert_eq!(driver("io-nothing").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(queues("").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
