//! VLAN tags (IEEE 802.1Q). Priorities are not kept: a tag that is put on has priority 0.

use super::{ETHERNET, be16, put16};

/// EtherType of a tagged frame.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Length of a tag in bytes.
pub const TAG: u16 = 4;

const ADDRESSES: usize = 12;
const ID: u16 = 0x0fff;

/// The VLAN of a tagged frame.
#[inline]
pub fn id(frame: &[u8]) -> Option<u16> {
    let tagged = frame.len() >= ETHERNET + usize::from(TAG) && be16(frame, ADDRESSES) == ETHERTYPE_VLAN;
    tagged.then(|| be16(frame, ADDRESSES + 2) & ID)
}

/// Takes the tag off a tagged frame, which then begins [`TAG`] bytes later.
#[inline]
pub fn take_off(frame: &mut [u8]) {
    frame.copy_within(..ADDRESSES, usize::from(TAG));
}

/// Puts a tag on the frame that begins [`TAG`] bytes after the start of `room`, and begins there afterwards.
#[inline]
pub fn put_on(room: &mut [u8], vlan: u16) {
    room.copy_within(usize::from(TAG)..usize::from(TAG) + ADDRESSES, 0);
    put16(room, ADDRESSES, ETHERTYPE_VLAN);
    put16(room, ADDRESSES + 2, vlan);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_and_on_again() {
        let tagged = [&[1; 6][..], &[2; 6], &[0x81, 0, 0x60, 20, 8, 0], b"payload"].concat();
        assert_eq!(id(&tagged), Some(20));
        let mut b = tagged.clone();
        take_off(&mut b);
        assert_eq!(b[4..], [&[1; 6][..], &[2; 6], &[8, 0], b"payload"].concat());
        assert_eq!(id(&b[4..]), None);
        put_on(&mut b, 20);
        assert_eq!((&b[..14], &b[14..16], &b[16..]), (&tagged[..14], &[0, 20][..], &tagged[16..]));
        assert_eq!(id(&tagged[..17]), None, "cut short");
    }
}
