//! The requests as plain reads and writes of a file: what the host itself takes. Writes over a base copy the cluster around
//! them to the end of the file first, in a copy that the host makes.

use beside_imago::{Plan, Sum};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

const CLUSTER: u64 = 64 << 10;

fn main() {
    let plan = Plan::from_command_line();
    let file = OpenOptions::new().read(true).write(plan.write).open(&plan.file).expect("the file opens");
    let base = plan.base.as_ref().map(|base| File::open(base).expect("the base opens"));
    let size = base.as_ref().unwrap_or(&file).metadata().expect("the file has a length").len();
    let buffer = plan.buffer();
    let mut sum = Sum::default();
    for offset in plan.offsets(size) {
        let place = match &base {
            Some(base) => copy_cluster(base, &file, offset).expect("a copy succeeds"),
            None => offset,
        };
        if plan.write {
            file.write_all_at(buffer, place).expect("a write succeeds");
        } else {
            file.read_exact_at(buffer, offset).expect("a read succeeds");
            sum.add(buffer);
        }
    }
    if plan.write {
        file.sync_data().expect("a flush succeeds");
    }
    sum.report();
}

/// Copies the cluster around an offset, and returns where the offset is in the copy.
fn copy_cluster(mut base: &File, mut file: &File, offset: u64) -> io::Result<u64> {
    let within = offset % CLUSTER;
    base.seek(SeekFrom::Start(offset - within))?;
    let place = file.seek(SeekFrom::End(0))?;
    io::copy(&mut base.take(CLUSTER), &mut file)?;
    Ok(place + within)
}
