//! The requests as plain reads and writes of a file: what the host itself takes.

use beside_imago::{Plan, Sum};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

fn main() {
    let plan = Plan::from_command_line();
    let file = OpenOptions::new().read(true).write(plan.write).open(&plan.file).expect("the file opens");
    let size = file.metadata().expect("the file has a length").len();
    let buffer = plan.buffer();
    let mut sum = Sum::default();
    for offset in plan.offsets(size) {
        if plan.write {
            file.write_all_at(buffer, offset).expect("a write succeeds");
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
