//! Files that appear whole or not at all.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file to be written later, which is known to be writable.
pub(crate) struct OutputFile {
    /// The option and the path, as the caller gave them.
    shown: String,
    target: PathBuf,
}

impl OutputFile {
    /// Checks at once that the file can be written, so that no run is wasted. `option` is the name
    /// of the option that gave the path.
    pub(crate) fn new(option: &str, path: &Path) -> Result<Self, Failure> {
        // A symbolic link stays one: what it points at is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let found = if target.exists() && !target.is_file() {
            Some("something that is no regular file".to_owned())
        } else if target.file_name().is_none() {
            Some("a path without a file name".to_owned())
        } else {
            temporary(&target).err().map(|error| error.to_string())
        };
        let shown = format!("{option} {}", path.display());
        match found {
            None => Ok(Self { shown, target }),
            Some(found) => {
                Err(Failure::Input(format!("{shown}: expected a writable file, found {found}")))
            }
        }
    }

    /// Writes a temporary file beside the target, then gives it the target's name.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let written = temporary(&self.target).and_then(|mut file| {
            file.write_all(bytes)?;
            // Without this a crash could leave the name and not the contents.
            file.as_file().sync_all()?;
            file.persist(&self.target).map(drop).map_err(|error| error.error)
        });
        // The arguments were good: the machine has no room, for example.
        written
            .map_err(|error| Failure::Device(format!("{}: cannot be written: {error}", self.shown)))
    }
}

/// A temporary file in the target's directory, for a rename does not cross file systems.
/// It is removed when dropped.
fn temporary(target: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".linear-attention-");
    #[cfg(unix)]
    {
        // tempfile makes private files; a result gets what the umask leaves of rw-rw-rw-.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => builder.tempfile_in(directory),
        _ => builder.tempfile_in("."),
    }
}
