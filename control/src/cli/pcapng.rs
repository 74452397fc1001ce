//! Capture files that carry a comment with each frame: pcapng (draft-ietf-opsawg-pcapng).

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u32 = 1;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;
const DROP_COUNT: u16 = 4;
const APPLICATION: u16 = 4;
/// In [`PACKET_FLAGS`]: it came in.
const INBOUND: u32 = 1;
/// The longest option that has a place.
const LONGEST: usize = 0xfffc;

/// A frame and what is to be said of it.
pub(super) struct Record<'a> {
    /// The interface it came in on.
    pub(super) interface: &'a str,
    /// When, in seconds since the epoch.
    pub(super) at: f64,
    /// The whole frame.
    pub(super) frame: &'a [u8],
    /// The comment.
    pub(super) comment: &'a str,
}

/// A capture that is being written.
pub(super) struct Pcapng<W> {
    out: W,
    /// The interfaces that have been described, by their number.
    interfaces: Vec<String>,
    /// Frames that are missing in front of the next one.
    lost: u64,
}

impl<W: Write> Pcapng<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut p = Pcapng { out, interfaces: Vec::new(), lost: 0 };
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        // Version 1.0; the section's length is not known.
        body.extend([1, 0, 0, 0]);
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, APPLICATION, concat!("sluice ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, END_OF_OPTIONS, &[]);
        p.block(SECTION_HEADER, &body)?;
        p.out.flush()?;
        Ok(p)
    }

    /// Writes a frame, at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn put(&mut self, r: &Record<'_>) -> io::Result<()> {
        let interface = self.number(r.interface)?;
        let at = (r.at * 1e6).round() as u64;
        let length = (r.frame.len() as u32).to_le_bytes();
        let mut body = Vec::with_capacity(r.frame.len() + r.comment.len() + 64);
        body.extend(interface.to_le_bytes());
        // Microseconds, the upper half first.
        body.extend(((at >> 32) as u32).to_le_bytes());
        body.extend((at as u32).to_le_bytes());
        body.extend(length);
        body.extend(length);
        body.extend(r.frame);
        pad(&mut body);
        option(&mut body, COMMENT, r.comment.as_bytes());
        option(&mut body, PACKET_FLAGS, &INBOUND.to_le_bytes());
        if self.lost > 0 {
            option(&mut body, DROP_COUNT, &std::mem::take(&mut self.lost).to_le_bytes());
        }
        option(&mut body, END_OF_OPTIONS, &[]);
        self.block(ENHANCED_PACKET, &body)?;
        self.out.flush()
    }

    /// Notes that frames are missing here.
    pub(super) fn lose(&mut self, n: u64) {
        self.lost += n;
    }

    /// The number of an interface, which is described first if it has not been.
    fn number(&mut self, name: &str) -> io::Result<u32> {
        if let Some(i) = self.interfaces.iter().position(|n| n == name) {
            return Ok(i as u32);
        }
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        // No frame is cut.
        body.extend(0u32.to_le_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        option(&mut body, END_OF_OPTIONS, &[]);
        self.block(INTERFACE_DESCRIPTION, &body)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() as u32 - 1)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&[&kind.to_le_bytes(), &length, body, &length].concat())
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(LONGEST)];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

/// Fills up to a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_and_say_what_is_missing() {
        let mut file = Vec::new();
        let mut p = Pcapng::new(&mut file).unwrap();
        let record = |interface| Record { interface, at: 1.5, frame: &[7; 61], comment: "dropped" };
        p.put(&record("lan")).unwrap();
        p.lose(3);
        p.put(&record("lan")).unwrap();
        p.put(&record("wan")).unwrap();
        let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut blocks) = (0, Vec::new());
        while at < file.len() {
            let length = u32_at(at + 4) as usize;
            assert_eq!((length % 4, u32_at(at + length - 4) as usize), (0, length), "the length stands at both ends");
            blocks.push((u32_at(at), &file[at + 8..at + length - 4]));
            at += length;
        }
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        let (interface, packet) = (INTERFACE_DESCRIPTION, ENHANCED_PACKET);
        assert_eq!(kinds, [SECTION_HEADER, interface, packet, packet, interface, packet]);
        // Interface, time in microseconds, both lengths.
        assert_eq!(blocks[2].1[..20], [0u32, 0, 1_500_000, 61, 61].map(u32::to_le_bytes).concat());
        assert_eq!(blocks[5].1[..4], 1u32.to_le_bytes());
        let missing = [4, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let told: Vec<bool> = blocks.iter().map(|(_, b)| b.windows(12).any(|w| w == missing)).collect();
        assert_eq!(told, [false, false, false, true, false, false]);
    }
}
