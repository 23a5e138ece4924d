//! The requests through imago, on one thread.

use beside_imago::{Plan, Sum};
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

fn main() {
    let plan = Plan::from_command_line();
    let image = Qcow2::<File>::builder_path(&plan.file)
        .write(plan.write)
        .open(PermissiveImplicitOpenGate::default())
        .expect("the image opens");
    let image = FormatAccess::new(image);
    let size = image.size();
    let buffer = plan.buffer();
    let mut sum = Sum::default();
    for offset in plan.offsets(size) {
        if plan.write {
            image.write(&*buffer, offset).expect("a write succeeds");
        } else {
            image.read(&mut *buffer, offset).expect("a read succeeds");
            sum.add(buffer);
        }
    }
    if plan.write {
        image.flush().expect("a flush succeeds");
        image.sync().expect("a sync succeeds");
    }
    sum.report();
}
