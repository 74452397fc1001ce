//! A port over capture files: replays one as received frames and writes what is sent to another.
//!
//! The classic pcap format (draft-ietf-opsawg-pcap), Ethernet only: either byte order and microseconds or
//! nanoseconds when reading, native byte order and nanoseconds when writing. Frames are replayed as fast as
//! they are read; their times do not matter.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::{Frame, FramePool, Port};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// The longest record accepted and the snapshot length written, in bytes: what other tools accept.
const MAX_RECORD: u32 = 262_144;

/// Why a capture cannot be read or written.
#[derive(Debug, Error)]
pub enum PcapError {
    /// The system's error.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The contents are not what they should be.
    #[error("{}: at byte {offset}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
}

/// Reads a capture record by record.
#[derive(Debug)]
pub struct PcapReader {
    path: PathBuf,
    file: BufReader<File>,
    swapped: bool,
    offset: u64,
    record: Vec<u8>,
}

impl PcapReader {
    /// Opens a capture and reads its header.
    ///
    /// # Errors
    /// When the file cannot be read or is not a classic pcap of Ethernet frames.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PcapError> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|cause| PcapError::Io { path: path.clone(), cause })?;
        let mut reader = PcapReader { path, file: BufReader::new(file), swapped: false, offset: 0, record: Vec::new() };
        let mut header = [0; FILE_HEADER];
        if !reader.fill(&mut header)? {
            return Err(reader.wrong(0, "the file is empty"));
        }
        let magic = reader.word(&header, 0);
        reader.swapped = match magic {
            MAGIC_MICROSECONDS | MAGIC_NANOSECONDS => false,
            m if [MAGIC_MICROSECONDS, MAGIC_NANOSECONDS].contains(&m.swap_bytes()) => true,
            0x0a0d_0d0a => {
                return Err(reader.wrong(0, "this is a pcapng file; convert it with `editcap -F pcap IN OUT`"));
            }
            _ => return Err(reader.wrong(0, "this is not a pcap file (no magic number)")),
        };
        // The upper bits of the link type tell of a frame check sequence, which captures seldom have.
        let link = reader.word(&header, 20) & 0xffff;
        if link != LINKTYPE_ETHERNET {
            return Err(reader.wrong(20, &format!("the link type is {link}; only Ethernet (1) can be replayed")));
        }
        Ok(reader)
    }

    /// The next record's captured bytes; `None` at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read, or ends within a record.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, PcapError> {
        let mut header = [0; RECORD_HEADER];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let length = self.word(&header, 8);
        if length > MAX_RECORD {
            let at = self.offset - 8;
            return Err(self.wrong(at, &format!("a record of {length} bytes is longer than any capture's")));
        }
        let mut record = std::mem::take(&mut self.record);
        record.resize(length as usize, 0);
        let whole = record.is_empty() || self.fill(&mut record)?;
        self.record = record;
        if !whole {
            return Err(self.wrong(self.offset, "the file ends within a record"));
        }
        Ok(Some(&self.record))
    }

    /// Reads exactly `to`; `false` at the end of the file.
    fn fill(&mut self, to: &mut [u8]) -> Result<bool, PcapError> {
        let mut n = 0;
        while n < to.len() {
            match self.file.read(&mut to[n..]) {
                Ok(0) if n == 0 => return Ok(false),
                Ok(0) => return Err(self.wrong(self.offset + n as u64, "the file ends within a record")),
                Ok(m) => n += m,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(cause) => return Err(PcapError::Io { path: self.path.clone(), cause }),
            }
        }
        self.offset += n as u64;
        Ok(true)
    }

    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        let n = u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if self.swapped { n.swap_bytes() } else { n }
    }

    fn wrong(&self, offset: u64, what: &str) -> PcapError {
        PcapError::Format { path: self.path.clone(), offset, what: what.into() }
    }
}

/// Writes a capture.
#[derive(Debug)]
pub struct PcapWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl PcapWriter {
    /// Creates a capture, in place of a file of that name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, PcapError> {
        let path = path.as_ref().to_owned();
        let file = File::create(&path).map_err(|cause| PcapError::Io { path: path.clone(), cause })?;
        let mut writer = PcapWriter { path, file: BufWriter::new(file) };
        // Version 2.4, and two fields that are always zero.
        let version = 2u16.to_ne_bytes().into_iter().chain(4u16.to_ne_bytes());
        let header = MAGIC_NANOSECONDS.to_ne_bytes().into_iter().chain(version).chain([0; 8]);
        let header = header.chain(MAX_RECORD.to_ne_bytes()).chain(LINKTYPE_ETHERNET.to_ne_bytes());
        writer.put(&header.collect::<Vec<u8>>())?;
        Ok(writer)
    }

    /// Appends a frame, with the current time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, frame: &[u8]) -> Result<(), PcapError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = frame.len() as u32;
        let mut header = [0; RECORD_HEADER];
        for (to, n) in header.chunks_exact_mut(4).zip([now.as_secs() as u32, now.subsec_nanos(), length, length]) {
            to.copy_from_slice(&n.to_ne_bytes());
        }
        self.put(&header)?;
        self.put(frame)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.file.flush().map_err(|cause| PcapError::Io { path: self.path.clone(), cause })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PcapError> {
        self.file.write_all(bytes).map_err(|cause| PcapError::Io { path: self.path.clone(), cause })
    }
}

/// A port whose input is one capture and whose output is another; either may be missing.
#[derive(Debug, Default)]
pub struct PcapPort {
    input: Option<PcapReader>,
    output: Option<PcapWriter>,
    too_long: u64,
    error: Option<PcapError>,
}

impl PcapPort {
    /// A port that replays `input` and records in `output`.
    pub fn new(input: Option<PcapReader>, output: Option<PcapWriter>) -> Self {
        PcapPort { input, output, too_long: 0, error: None }
    }

    /// Whether the input has been replayed, or reading it failed.
    pub fn finished(&self) -> bool {
        self.input.is_none()
    }

    /// How many frames of the input were left out because they do not fit a frame of the pool.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Closes the output and tells the first error that reading or writing has met.
    ///
    /// # Errors
    /// That error.
    pub fn finish(mut self) -> Result<(), PcapError> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        self.output.as_mut().map_or(Ok(()), PcapWriter::flush)
    }
}

impl Port for PcapPort {
    fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) {
        let mut received = 0;
        while received < max && pool.available() > 0 {
            let Some(input) = &mut self.input else { return };
            match input.next_record() {
                Ok(Some(bytes)) if bytes.len() > pool.capacity() => self.too_long += 1,
                Ok(Some(bytes)) => {
                    let Some(mut frame) = pool.take() else { return };
                    frame.len = bytes.len() as u16;
                    pool.bytes_mut(frame).copy_from_slice(bytes);
                    out.push(frame);
                    received += 1;
                }
                Ok(None) => self.input = None,
                Err(e) => {
                    self.input = None;
                    self.error.get_or_insert(e);
                }
            }
        }
    }

    fn send(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), Frame> {
        if let Some(output) = &mut self.output
            && let Err(e) = output.write(pool.bytes(frame))
        {
            self.output = None;
            self.error.get_or_insert(e);
        }
        pool.give(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("sluice-pcap-{}-{name}", std::process::id()))
    }

    fn capture(name: &str, swapped: bool, link: u32, records: &[&[u8]], cut: usize) -> PathBuf {
        let n = |n: u32| if swapped { n.swap_bytes() } else { n }.to_ne_bytes();
        let mut bytes = [n(MAGIC_MICROSECONDS), n(0x0002_0004), n(0), n(0), n(65535), n(link)].concat();
        for r in records {
            bytes.extend([n(1), n(2), n(r.len() as u32), n(r.len() as u32)].concat());
            bytes.extend_from_slice(r);
        }
        bytes.truncate(bytes.len() - cut);
        let path = file(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn records(path: &Path) -> Vec<Vec<u8>> {
        let mut r = PcapReader::open(path).unwrap();
        let mut all = Vec::new();
        while let Some(b) = r.next_record().unwrap() {
            all.push(b.to_vec());
        }
        all
    }

    #[test]
    fn both_byte_orders_are_read() {
        for swapped in [false, true] {
            let path = capture(&format!("order-{swapped}"), swapped, 1, &[&[1; 60], &[2; 100]], 0);
            assert_eq!(records(&path), [vec![1; 60], vec![2; 100]]);
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_is_replayed_and_sent_is_what_is_recorded() {
        let (from, to) = (capture("from", false, 1, &[&[1; 60], &[9; 3000], &[2; 1500]], 0), file("to"));
        let mut pool = FramePool::in_memory(2, 2048, 256);
        let mut port = PcapPort::new(Some(PcapReader::open(&from).unwrap()), Some(PcapWriter::create(&to).unwrap()));
        let mut frames = Vec::new();
        while !port.finished() {
            port.receive(&mut pool, &mut frames, 64);
            for f in frames.drain(..) {
                port.send(&mut pool, f).unwrap();
            }
        }
        assert_eq!((port.too_long(), pool.available()), (1, 2));
        port.finish().unwrap();
        assert_eq!(records(&to), [vec![1; 60], vec![2; 1500]]);
        [from, to].iter().for_each(|p| std::fs::remove_file(p).unwrap());
    }

    #[test]
    fn errors_tell_file_and_offset() {
        let cases = [
            (capture("cut", false, 1, &[&[1; 60]], 1), "at byte 99: the file ends within a record"),
            (capture("short", false, 1, &[&[1; 60]], 70), "at byte 30: the file ends within a record"),
            (capture("bare", false, 1, &[&[1; 60]], 60), "at byte 40: the file ends within a record"),
            (capture("link", true, 113, &[], 0), "at byte 20: the link type is 113; only Ethernet (1) can be replayed"),
        ];
        for (path, message) in cases {
            let error = match PcapReader::open(&path) {
                Ok(mut r) => r.next_record().unwrap_err(),
                Err(e) => e,
            };
            assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
            std::fs::remove_file(path).unwrap();
        }
        let error = PcapReader::open("/nonexistent.pcap").unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent.pcap: No such file"));
    }
}
