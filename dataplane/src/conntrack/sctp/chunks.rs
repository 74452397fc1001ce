//! The chunks of an SCTP packet.

// Chunk types (RFC 9260 section 3.2).
pub(super) const DATA: u8 = 0;
pub(super) const INIT: u8 = 1;
pub(super) const INIT_ACK: u8 = 2;
pub(super) const HEARTBEAT: u8 = 4;
pub(super) const HEARTBEAT_ACK: u8 = 5;
pub(super) const ABORT: u8 = 6;
pub(super) const SHUTDOWN: u8 = 7;
pub(super) const SHUTDOWN_ACK: u8 = 8;
pub(super) const ERROR: u8 = 9;
pub(super) const COOKIE_ECHO: u8 = 10;
pub(super) const COOKIE_ACK: u8 = 11;
pub(super) const SHUTDOWN_COMPLETE: u8 = 14;

/// The T bit of ABORT and SHUTDOWN COMPLETE: the tag is the sender's own, reflected.
pub(super) const REFLECTED: u8 = 1;

/// The set of chunk types below 16 in a packet.
#[derive(Clone, Copy)]
pub(super) struct Types(u16);

impl Types {
    pub(super) fn has(self, kind: u8) -> bool {
        self.0 >> kind & 1 == 1
    }
}

/// The types of a packet's chunks; `None` when chunks are bundled that must not be, one has length 0, or
/// there are none.
pub(super) fn types(chunks: &[u8]) -> Option<Types> {
    let mut types = Types(0);
    let mut alone = false;
    for (i, c) in Chunks(chunks).enumerate() {
        alone |= matches!(c.kind, INIT | INIT_ACK | SHUTDOWN_COMPLETE);
        if c.len == 0 || i > 0 && (alone || matches!(c.kind, COOKIE_ECHO | COOKIE_ACK)) {
            return None;
        }
        types.0 |= 1u16.checked_shl(u32::from(c.kind)).unwrap_or(0);
    }
    (chunks.len() >= HEADER).then_some(types)
}

/// Length of a chunk's header: type, flags, length.
pub(super) const HEADER: usize = 4;

/// One chunk.
pub(super) struct Chunk<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Length as the chunk says, header included.
    len: u16,
    /// The packet from this chunk on.
    bytes: &'a [u8],
}

impl Chunk<'_> {
    /// The tag that an INIT or INIT ACK announces; `None` when the packet ends within its fixed part.
    pub(super) fn init_tag(&self) -> Option<u32> {
        const FIXED_PART: usize = 16;
        let b = self.bytes.get(HEADER..HEADER + FIXED_PART)?;
        Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// The chunks of a packet. Ends at one whose header is cut off, or whose length is 0.
pub(super) struct Chunks<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let [kind, flags, high, low, ..] = *self.0 else { return None };
        let len = u16::from_be_bytes([high, low]);
        let chunk = Chunk { kind, flags, len, bytes: self.0 };
        // Chunks are padded to multiples of four bytes; the length does not count the padding.
        let step = usize::from(len).next_multiple_of(4);
        self.0 = if step == 0 { &[] } else { self.0.get(step..).unwrap_or_default() };
        Some(chunk)
    }
}
