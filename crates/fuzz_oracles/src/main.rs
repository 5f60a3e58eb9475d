//! Corpora by hand: `fuzz_oracles seed FOLDER`, `keep FOLDER`, `try TARGET FILE...`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use fuzz_oracles::{TARGETS, kept, pack, target};

const USAGE: &str = "\
fuzz_oracles seed FOLDER          writes the seeds and the kept inputs of each target to FOLDER/TARGET
fuzz_oracles keep FOLDER          keeps the inputs of FOLDER/TARGET, what was found first, then the shortest, in the source of this crate
fuzz_oracles try TARGET FILE...   says what inputs mean, and runs them";

/// Kept per target, so that the repository stays small and the tests quick.
const KEPT_BYTES: usize = 96 << 10;

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["seed", folder] => seed(Path::new(folder))?,
        ["keep", folder] => keep(Path::new(folder))?,
        ["try", name, files @ ..] if target(name).is_some() => {
            for file in files {
                attempt(name, Path::new(file))?;
            }
        }
        _ => {
            writeln!(io::stderr(), "{USAGE}")?;
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn seed(folder: &Path) -> io::Result<()> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for seed in (target.seeds)().into_iter().chain(kept(target)) {
            let plain = |letter: char| {
                if letter.is_alphanumeric() {
                    letter
                } else {
                    '-'
                }
            };
            let name: String = seed.name.chars().map(plain).collect();
            fs::write(folder.join(name), seed.bytes)?;
        }
    }
    Ok(())
}

fn keep(folder: &Path) -> io::Result<()> {
    for target in TARGETS {
        let mut inputs = Vec::new();
        for entry in fs::read_dir(folder.join(target.name))? {
            let entry = entry?;
            let was_found = entry.file_name().to_string_lossy().starts_with("crash-");
            let input = fs::read(entry.path())?;
            inputs.push((!was_found, input.len(), input));
        }
        inputs.sort();
        let mut inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, _, input)| input).collect();
        inputs.dedup();
        let mut room = KEPT_BYTES;
        inputs.retain(|input| {
            let fits = input.len() + 2 <= room;
            room -= if fits { input.len() + 2 } else { 0 };
            fits
        });
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept");
        fs::write(home.join(target.name), pack(&inputs))?;
        writeln!(io::stderr(), "{}: {} inputs", target.name, inputs.len())?;
    }
    Ok(())
}

fn attempt(name: &str, file: &Path) -> io::Result<()> {
    let Some(target) = target(name) else {
        return Ok(());
    };
    let input = fs::read(file)?;
    writeln!(
        io::stdout(),
        "{}: {}",
        file.display(),
        (target.describe)(&input)
    )?;
    let bytes = (target.run)(&input);
    writeln!(io::stdout(), "holds for files of {bytes} bytes")
}
