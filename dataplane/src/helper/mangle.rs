//! Replacing a part of a payload by text of another length, inside the frame.

use std::ops::Range;

use crate::packet::checksum::Delta;
use crate::packet::{Headers, Ip, be16, protocol, put16, transport};

/// Length of a UDP header (RFC 768).
const UDP_HEADER: usize = 8;
/// Length of an IPv6 header, which its payload length does not count.
const IPV6_HEADER: u16 = 40;

/// Why a payload cannot be changed; the frame is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MangleError {
    /// Not an unfragmented TCP segment or UDP datagram.
    #[error("not a whole TCP segment or UDP datagram")]
    NotWhole,
    /// The part to be replaced ends after the payload.
    #[error("the part to be replaced lies outside the payload")]
    OutsidePayload,
    /// The frame has no room for the longer packet, or no IP packet can be so long.
    #[error("no room for a longer payload")]
    NoRoom,
}

/// Where in the frame the payload of an unfragmented TCP segment or UDP datagram lies that
/// [`transport::classify`] accepted; `None` for other packets.
pub fn payload_range<A>(frame: &[u8], h: &Headers<A>) -> Option<Range<usize>> {
    let (l4, end) = (usize::from(h.l4), usize::from(h.end));
    let header = match h.proto {
        protocol::TCP => usize::from(*frame.get(l4 + 12)? >> 4) * 4,
        protocol::UDP => UDP_HEADER,
        _ => return None,
    };
    (h.fragment.is_none() && l4 + header <= end).then_some(l4 + header..end)
}

/// Replaces the bytes `part` of the payload by `text`, and mends lengths and checksums. Returns how many
/// bytes longer the packet is now; it ends at the new `h.end`.
///
/// `buffer` begins with the frame and has room behind it. The transport checksum is computed anew, so it
/// must have been verified before; UDP without checksum stays without. As with Linux, the UDP length
/// becomes that of the IP payload.
///
/// # Errors
/// [`MangleError`]; nothing is changed then.
pub fn replace<A: Ip>(
    buffer: &mut [u8],
    h: &mut Headers<A>,
    part: Range<usize>,
    text: &[u8],
) -> Result<i32, MangleError> {
    let payload = payload_range(buffer, h).ok_or(MangleError::NotWhole)?;
    if part.start > part.end || part.end > payload.len() {
        return Err(MangleError::OutsidePayload);
    }
    let length = payload.end - part.len() + text.len();
    let end = u16::try_from(length).ok().filter(|_| length <= buffer.len()).ok_or(MangleError::NoRoom)?;

    let (start, tail) = (payload.start + part.start, payload.start + part.end);
    buffer.copy_within(tail..payload.end, start + text.len());
    buffer[start..start + text.len()].copy_from_slice(text);

    let change = i32::from(end) - i32::from(h.end);
    h.end = end;
    write_lengths(buffer, h);
    if h.proto == protocol::TCP || be16(buffer, usize::from(h.l4) + 6) != 0 {
        transport::fill(buffer, h);
    }
    Ok(change)
}

/// Writes the length that `h.end` stands for into IP and UDP header.
fn write_lengths<A: Ip>(frame: &mut [u8], h: &Headers<A>) {
    let l3 = usize::from(h.l3);
    let length = h.end - h.l3;
    if A::V6 {
        put16(frame, l3 + 4, length - IPV6_HEADER);
    } else {
        let delta = Delta::new(u64::from(be16(frame, l3 + 2)), u64::from(length));
        put16(frame, l3 + 2, length);
        let c = delta.apply(be16(frame, l3 + 10));
        put16(frame, l3 + 10, c);
    }
    if h.proto == protocol::UDP {
        put16(frame, usize::from(h.l4) + 4, h.end - h.l4);
    }
}

#[cfg(test)]
mod tests;
