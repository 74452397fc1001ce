//! What the BPF programs have in common: loading one, and errors in words an operator can act on.

use std::error::Error;
use std::io;

use aya::maps::Map;
use aya::programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use thiserror::Error;

/// The capabilities that AF_XDP and BPF ask of the daemon, for messages.
pub const CAPABILITIES: &str = "run as root, or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK \
     (and CAP_SYS_ADMIN to replace the program that a crashed daemon left behind)";

/// Why a BPF program or map could not be used.
#[derive(Debug, Error)]
pub enum BpfError {
    /// The process lacks capabilities.
    #[error("{what} is not permitted: {CAPABILITIES}")]
    NotPermitted {
        /// What was tried.
        what: String,
    },
    /// The kernel, or the loader, refused.
    #[error("{what} failed: {reason}")]
    Failed {
        /// What was tried.
        what: String,
        /// The whole chain of causes.
        reason: String,
    },
}

impl BpfError {
    /// Wraps what happened while doing `what`.
    pub(super) fn new(what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let what = what.into();
        let mut reason = error.to_string();
        let mut cause = Some(error);
        while let Some(e) = cause {
            if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
                return BpfError::NotPermitted { what };
            }
            let text = e.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = e.source();
        }
        BpfError::Failed { what, reason }
    }
}

/// A loaded program with its maps.
pub(super) struct Loaded {
    name: &'static str,
    ebpf: Ebpf,
}

impl Loaded {
    /// Loads the XDP program `name` from an object file's bytes.
    pub(super) fn new(object: &[u8], name: &'static str) -> Result<Self, BpfError> {
        let load = |p: &mut Program| <&mut Xdp>::try_from(p)?.load();
        Self::open(&mut EbpfLoader::new(), object, name, load)
    }

    /// Loads the traffic control program `name`; its map `sized` gets room for `entries`.
    pub(super) fn classifier(
        object: &[u8],
        name: &'static str,
        (sized, entries): (&str, u32),
    ) -> Result<Self, BpfError> {
        let load = |p: &mut Program| <&mut SchedClassifier>::try_from(p)?.load();
        Self::open(EbpfLoader::new().map_max_entries(sized, entries), object, name, load)
    }

    fn open(
        loader: &mut EbpfLoader<'_>,
        object: &[u8],
        name: &'static str,
        load: impl FnOnce(&mut Program) -> Result<(), ProgramError>,
    ) -> Result<Self, BpfError> {
        let failed = |e: &(dyn Error + 'static)| BpfError::new(format!("loading the BPF program {name}"), e);
        let mut ebpf = loader.load(object).map_err(|e: EbpfError| failed(&e))?;
        let program = ebpf.program_mut(name).ok_or_else(|| failed(&io::Error::other("not in the object file")))?;
        load(program).map_err(|e| failed(&e))?;
        Ok(Loaded { name, ebpf })
    }

    /// The traffic control program, to attach and detach it.
    pub(super) fn traffic_control(&mut self) -> Result<&mut SchedClassifier, BpfError> {
        let failed = |e: &(dyn Error + 'static)| BpfError::new(format!("using the BPF program {}", self.name), e);
        let missing = io::Error::other("not in the object file");
        let program = self.ebpf.program_mut(self.name).ok_or_else(|| failed(&missing))?;
        program.try_into().map_err(|e: ProgramError| failed(&e))
    }

    /// A descriptor of the program, independent of this value.
    pub(super) fn program(&self) -> Result<ProgramFd, BpfError> {
        let failed = |e: &(dyn Error + 'static)| BpfError::new(format!("using the BPF program {}", self.name), e);
        let program =
            self.ebpf.program(self.name).ok_or_else(|| failed(&io::Error::other("not in the object file")))?;
        program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e: ProgramError| failed(&e))
    }

    /// Takes one of the program's maps.
    pub(super) fn map<M>(&mut self, name: &'static str) -> Result<M, BpfError>
    where
        M: TryFrom<Map, Error: Error + 'static>,
    {
        let failed = |e: &(dyn Error + 'static)| BpfError::new(format!("using the BPF map {name}"), e);
        let map = self.ebpf.take_map(name).ok_or_else(|| failed(&io::Error::other("not in the object file")))?;
        M::try_from(map).map_err(|e| failed(&e))
    }
}
