//! Writing traces: the same requests always give the same bytes.

use super::{Metadata, Request, Trace, TraceError};
use flate2::{Compression, GzBuilder};
use std::io::{self, BufWriter, Write};
use std::path::Path;

impl Trace {
    /// Writes the trace to the file `path`, compressed with gzip if its name ends in `.gz`. The file appears
    /// whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written; one that was there before is then as it was.
    pub fn save(&self, path: &Path) -> Result<(), TraceError> {
        self.save_with_metadata(path, &Metadata::default())
    }

    /// Writes the trace and what is known of it to the file `path`, as [`Trace::save`].
    ///
    /// # Errors
    /// As [`Trace::save`].
    pub fn save_with_metadata(&self, path: &Path, metadata: &Metadata) -> Result<(), TraceError> {
        let written = self.save_beside(path, metadata);
        written.map_err(|source| TraceError::Write { path: path.to_path_buf(), source })
    }

    /// Writes the trace as CSV; fractions of microseconds are dropped.
    ///
    /// # Errors
    /// If `output` cannot be written.
    pub fn write_csv(&self, output: impl Write) -> io::Result<()> {
        self.write_with_metadata(output, &Metadata::default())
    }

    fn write_with_metadata(&self, output: impl Write, metadata: &Metadata) -> io::Result<()> {
        let mut output = BufWriter::new(output);
        for (key, value) in metadata.iter() {
            writeln!(output, "# {key}: {value}")?;
        }
        writeln!(output, "start_us,end_us,op,offset,length")?;
        for Request { start, end, op, offset, length } in &self.requests {
            writeln!(output, "{},{},{op},{offset},{length}", start.as_micros(), end.as_micros())?;
        }
        output.flush()
    }

    fn save_beside(&self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = new_file(folder)?;
        if path.extension().is_some_and(|extension| extension == "gz") {
            // No time and no name in the header, so that the bytes depend on the requests alone.
            let mut gzip = GzBuilder::new().mtime(0).write(&mut file, Compression::best());
            self.write_with_metadata(&mut gzip, metadata)?;
            gzip.finish()?;
        } else {
            self.write_with_metadata(&mut file, metadata)?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// A nameless-to-be file in `folder`, removed unless it is persisted, with the permissions of any new file.
fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".trace-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}
