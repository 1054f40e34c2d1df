//! Rows into bins of at most `limit` tokens; a longer row has a bin of its own. Every row is in exactly one bin.

use std::collections::BTreeMap;

/// Bins in the order of the rows: a row that does not fit closes the bin.
pub(super) fn in_order(lengths: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut used = 0;
    for (row, &length) in lengths.iter().enumerate() {
        match bins.last_mut() {
            Some(bin) if used + length <= limit => {
                bin.push(row);
                used += length;
            }
            _ => {
                bins.push(vec![row]);
                used = length;
            }
        }
    }
    bins
}

/// Best fit decreasing: the longest rows first, each into the fullest bin that has room; rows of one length as `order`
/// (a permutation of the rows) has them.
pub(super) fn best_fit(lengths: &[usize], order: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut rows = order.to_vec();
    rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // Bins by the room left in them.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for row in rows {
        let length = lengths[row];
        let room = open.range(length..).next().map(|(&room, _)| room);
        let (bin, room) = match room {
            Some(room) => {
                let bins_of_room = open.get_mut(&room).expect("the key was found");
                let bin = bins_of_room.pop().expect("an emptied entry is removed");
                if bins_of_room.is_empty() {
                    open.remove(&room);
                }
                bins[bin].push(row);
                (bin, room)
            }
            None => {
                bins.push(vec![row]);
                (bins.len() - 1, limit.max(length))
            }
        };
        open.entry(room - length).or_default().push(bin);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_closes_a_bin_that_is_full() {
        assert_eq!(in_order(&[3, 4, 1, 9, 2, 6], 8), [vec![0, 1, 2], vec![3], vec![4, 5]]);
        assert_eq!(in_order(&[], 8), Vec::<Vec<usize>>::new());
        assert_eq!(in_order(&[1, 1], 0), [[0], [1]]);
    }

    #[test]
    fn best_fit_fills_the_fullest_bin_with_room() {
        assert_eq!(best_fit(&[2, 5, 9, 6, 3], &[0, 1, 2, 3, 4], 8), [vec![2], vec![3, 0], vec![1, 4]]);
        assert_eq!(best_fit(&[4, 4, 4], &[2, 0, 1], 8), [vec![2, 0], vec![1]]);
    }
}
