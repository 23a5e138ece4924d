//! The requests as plain reads and writes of a file: what the host itself takes. Writes over a base copy the cluster around
//! them to the end of the file first, in a copy that the host makes.

use beside_imago::{Plan, Sum};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

const CLUSTER: u64 = 64 << 10;

fn main() -> io::Result<()> {
    let plan = Plan::from_command_line();
    let file = OpenOptions::new().read(true).write(plan.write).open(&plan.file)?;
    let base = plan.base.as_ref().map(File::open).transpose()?;
    let size = base.as_ref().unwrap_or(&file).metadata()?.len();
    let buffer = plan.buffer();
    let mut sum = Sum::default();
    for offset in plan.offsets(size) {
        let place = match &base {
            Some(base) => copy_cluster(base, &file, offset)?,
            None => offset,
        };
        if plan.write {
            file.write_all_at(buffer, place)?;
        } else {
            file.read_exact_at(buffer, offset)?;
            sum.add(buffer);
        }
    }
    if plan.write {
        file.sync_data()?;
    }
    sum.report();
    Ok(())
}

/// Copies the cluster around an offset, and returns where the offset is in the copy.
fn copy_cluster(mut base: &File, mut file: &File, offset: u64) -> io::Result<u64> {
    let within = offset % CLUSTER;
    base.seek(SeekFrom::Start(offset - within))?;
    let place = file.seek(SeekFrom::End(0))?;
    io::copy(&mut base.take(CLUSTER), &mut file)?;
    Ok(place + within)
}
