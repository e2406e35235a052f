//! An exclusive scan of summaries over ranks.

use linear_attention::summary::{Form, Summary};
use mpi::collective::{CommunicatorCollectives, UserOperation};
use mpi::datatype::{DynBuffer, DynBufferMut, Equivalence, MutView, UserDatatype, View};
use mpi::topology::SimpleCommunicator;

use crate::error::{Error, count};

/// Joins the summaries of all ranks before this one into `before`, which must be of the same
/// config, value heads and sequences on all ranks; on the first rank it stays as it is.
///
/// A record is one element to MPI: implementations may cut a message into elements, but not an
/// element.
pub(crate) fn exclusive_scan(
    communicator: &SimpleCommunicator,
    added: &Summary,
    before: &mut Summary,
) -> Result<(), Error> {
    let form = added.form();
    let record = count("elements of a record", form.record_len())?;
    let records = count("records", added.records().len() / form.record_len())?;
    let datatype = UserDatatype::contiguous(record, &f32::equivalent_datatype());
    let join = UserOperation::associative(move |earlier, later| join(form, &earlier, later));
    let before = before.records_mut();
    debug_assert_eq!(before.len(), added.records().len());
    // SAFETY: `records` elements of `record` floats are what both slices hold.
    let (from, mut to) = unsafe {
        (
            View::with_count_and_datatype(added.records(), records, &datatype),
            MutView::with_count_and_datatype(before, records, &datatype),
        )
    };
    communicator.exclusive_scan_into(&from, &mut to, &join);
    Ok(())
}

fn join(form: Form, earlier: &DynBuffer<'_>, mut later: DynBufferMut<'_>) {
    let len = earlier.len().min(later.len()) * form.record_len();
    if len == 0 {
        return;
    }
    // SAFETY: MPI hands over as many whole elements of the datatype as it says, which are
    // `record_len` floats each, in two buffers that do not overlap.
    let (earlier, later) = unsafe {
        (
            std::slice::from_raw_parts(earlier.as_ptr().cast::<f32>(), len),
            std::slice::from_raw_parts_mut(later.as_mut_ptr().cast::<f32>(), len),
        )
    };
    // Both are whole records of the same number.
    let joined = form.join(earlier, later);
    debug_assert!(joined.is_ok());
}
