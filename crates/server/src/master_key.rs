//! The master key: where it comes from. It wraps the vault's data keys and is never stored with them in the vault.

use std::path::Path;

use anyhow::{Context, ensure};
use store::MasterKey;
use zeroize::Zeroizing;

use crate::data_dir::DataDir;
use crate::files::{self, Access};
use crate::options::MasterKeySource;

/// Reads the key; at `init`, makes the key file where the source is a file that does not exist.
pub(crate) fn load_or_make(
    source: Option<&MasterKeySource>,
    dir: &DataDir,
) -> anyhow::Result<MasterKey> {
    let path = match source {
        Some(MasterKeySource::File(path)) => path.clone(),
        None => dir.master_key_file(),
        Some(other @ (MasterKeySource::Env(_) | MasterKeySource::Command(_))) => {
            return load(Some(other), dir);
        }
    };
    if !path.exists() {
        let key = MasterKey::random().context("make the master key")?;
        let text = Zeroizing::new(format!("{}\n", hex::encode(key.expose())));
        files::write_new(&path, text.as_bytes(), Access::Secret)?;
        return Ok(key);
    }
    read_file(&path)
}

/// Reads the key.
pub(crate) fn load(source: Option<&MasterKeySource>, dir: &DataDir) -> anyhow::Result<MasterKey> {
    match source {
        None => read_file(&dir.master_key_file()),
        Some(MasterKeySource::File(path)) => read_file(path),
        Some(MasterKeySource::Env(name)) => {
            let text = std::env::var(name)
                .with_context(|| format!("read the master key from the environment ({name})"))?;
            parse(&Zeroizing::new(text)).with_context(|| format!("in the variable {name}"))
        }
        Some(MasterKeySource::Command(words)) => run_command(words),
    }
}

fn run_command(words: &[String]) -> anyhow::Result<MasterKey> {
    let (program, arguments) = words
        .split_first()
        .context("the command for the master key is empty")?;
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("run {program:?} for the master key"))?;
    ensure!(
        output.status.success(),
        "{program:?}, asked for the master key, ended with {}",
        output.status
    );
    let text = Zeroizing::new(output.stdout);
    parse(std::str::from_utf8(&text).context("read the master key")?)
        .with_context(|| format!("in the output of {program:?}"))
}

fn read_file(path: &Path) -> anyhow::Result<MasterKey> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the master key from {}", path.display()))?;
    parse(&Zeroizing::new(text)).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<MasterKey> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim(), &mut *bytes)
        .ok()
        .context("the master key must be 64 hexadecimal digits")?;
    Ok(MasterKey::new(*bytes))
}
