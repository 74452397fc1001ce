//! Compiles BPF programs with clang, for build scripts.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

/// Compiles each of `programs`, `bpf/NAME.bpf.c` of the package, to `NAME.bpf.o` in the output directory; again
/// when one of them, or of the `headers` beside them, changes. Says what is missing and ends the build script
/// where it cannot.
pub fn compile_all(programs: &[&str], headers: &[&str]) {
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("bpf");
    let out = PathBuf::from(variable("OUT_DIR"));
    for header in headers {
        println!("cargo::rerun-if-changed={}", source.join(header).display());
    }
    for program in programs {
        compile(&clang, &source.join(program).with_extension("bpf.c"), &out.join(program).with_extension("bpf.o"));
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("{name} is not set: run this through cargo")))
}

fn compile(clang: &str, source: &Path, object: &Path) {
    println!("cargo::rerun-if-changed={}", source.display());
    // Programs for the bpf target have no multiarch directory of their own; <asm/types.h> is in the build machine's.
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]);
    if fs::exists(&multiarch).unwrap_or(false) {
        command.arg(format!("-I{multiarch}"));
    }
    let output = match command.arg("-c").arg(source).arg("-o").arg(object).output() {
        Ok(o) => o,
        Err(e) => fail(&format!(
            "cannot run {clang} ({e}), which compiles the BPF programs: `apt-get install clang libbpf-dev`, \
             or name another clang in the environment variable CLANG"
        )),
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let hint = if message.contains("file not found") {
            "\na header is missing: `apt-get install clang libbpf-dev linux-libc-dev`"
        } else {
            ""
        };
        fail(&format!("{clang} cannot compile {}:\n{message}{hint}", source.display()));
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}
