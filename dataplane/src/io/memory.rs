//! A port in memory: tests and benches put frames in and take what was sent.

use super::{Frame, FramePool, Held, Port};
use std::collections::VecDeque;

/// Frames wait in a queue until the worker reads them; sent frames collect until they are taken out.
#[derive(Debug, Default)]
pub struct MemoryPort {
    input: VecDeque<Frame>,
    output: Vec<Frame>,
    lags: bool,
}

impl MemoryPort {
    /// An empty port.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `frame`, which must belong to the worker's pool, the next one to be received.
    pub fn inject(&mut self, frame: Frame) {
        self.input.push_back(frame);
    }

    /// Whether it says that too much waits: it has room for any number of frames itself.
    pub fn set_lags(&mut self, lags: bool) {
        self.lags = lags;
    }

    /// Takes what was sent since the last call; the caller gives the frames back to the pool.
    pub fn sent(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.output)
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, _pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) {
        let n = max.min(self.input.len());
        out.extend(self.input.drain(..n));
    }

    fn lags(&mut self) -> bool {
        self.lags
    }

    fn send(&mut self, _pool: &mut FramePool, frame: Frame) -> Result<(), Frame> {
        self.output.push(frame);
        Ok(())
    }

    fn held(&self) -> Held {
        Held { receive: self.input.len() as u32, transmit: self.output.len() as u32 }
    }
}
