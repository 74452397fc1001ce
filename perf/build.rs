//! Compiles the BPF programs in `bpf/`.

fn main() {
    sluice_bpf_build::compile_all(&["generate", "redirect", "sink"], &[]);
}
