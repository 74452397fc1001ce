//! Compiles the BPF programs in `bpf/`.

fn main() {
    sluice_bpf_build::compile_all(&["steer", "punt", "host"], &["flow.h"]);
}
