//! Mean, range and confidence interval of what several boots gave.

use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

/// What independent replications of one quantity amount to, in the quantity's own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many replications there were.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Half the width of the 95 % confidence interval of the mean, by Student's t; `None` for one
    /// replication, which says nothing about the spread.
    pub half_width: Option<f64>,
}

impl Summary {
    /// Summarises `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() {
            return None;
        }
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        Some(Summary {
            count,
            mean,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            half_width: half_width(&values, mean),
        })
    }

    /// Lower end of the confidence interval; the mean itself where there is none.
    pub fn low(&self) -> f64 {
        self.mean - self.half_width.unwrap_or(0.0)
    }

    /// Upper end of the confidence interval; the mean itself where there is none.
    pub fn high(&self) -> f64 {
        self.mean + self.half_width.unwrap_or(0.0)
    }

    /// Half the width of the 95 % prediction interval of the mean of `count` more replications of the same spread, by
    /// Student's t; `None` where there is no confidence interval.
    pub fn half_width_of_next_mean(&self, count: usize) -> Option<f64> {
        Some(self.half_width? * (1.0 + self.count as f64 / count as f64).sqrt())
    }

    /// The same in another unit: every value times `factor`, which is positive.
    pub fn scaled(self, factor: f64) -> Summary {
        Summary {
            count: self.count,
            mean: self.mean * factor,
            min: self.min * factor,
            max: self.max * factor,
            half_width: self.half_width.map(|half_width| half_width * factor),
        }
    }
}

fn half_width(values: &[f64], mean: f64) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)? as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
    let quantile = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.975);
    Some(quantile * (variance / values.len() as f64).sqrt())
}

/// How many of several trials succeeded, and what that says of the share of all that would.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proportion {
    /// Trials that succeeded.
    pub hits: usize,
    /// All trials.
    pub count: usize,
    /// Lower end of the exact 95 % interval of the share, from 0 to 1.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Proportion {
    /// Of the `trials` that were made; `None` if there was none. The interval is that of Clopper and Pearson (Biometrika
    /// 26, 1934): it holds for any share and any number of independent trials.
    pub fn of(trials: impl IntoIterator<Item = bool>) -> Option<Proportion> {
        let (mut hits, mut count) = (0usize, 0usize);
        for hit in trials {
            hits += usize::from(hit);
            count += 1;
        }
        let quantile = |shape_a: usize, shape_b: usize, probability: f64| {
            Some(Beta::new(shape_a as f64, shape_b as f64).ok()?.inverse_cdf(probability))
        };
        let misses = count - hits;
        let low = if hits == 0 { 0.0 } else { quantile(hits, misses + 1, 0.025)? };
        let high = if misses == 0 { 1.0 } else { quantile(hits + 1, misses, 0.975)? };
        (count > 0).then_some(Proportion { hits, count, low, high })
    }
}

/// The `share` quantile of `sorted`, which rises: 0.5 for the median, 1 for the largest. Between two values it lies on
/// the line from one to the other, as R's type 7 and numpy's default have it; without a value it is no number.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = (place as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    low + (place - below as f64) * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As numpy.quantile([1, 2, 4, 8], q) says.
    #[test]
    fn quantiles_lie_between_the_values() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 3.0), (0.95, 7.4), (1.0, 8.0)] {
            assert!((quantile(&values, share) - expected).abs() < 1e-12, "{share}");
        }
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    /// t(0.975; 5) = 2.570582 (tables); the standard deviation of 1…6 is √3.5.
    #[test]
    fn half_width_agrees_with_the_tables() {
        let summary = Summary::of((1..=6).map(f64::from)).unwrap();
        assert_eq!((summary.count, summary.mean, summary.min, summary.max), (6, 3.5, 1.0, 6.0));
        let expected = 2.570_582 * 3.5f64.sqrt() / 6f64.sqrt();
        assert!((summary.half_width.unwrap() - expected).abs() < 1e-5);
    }

    /// For one more replication it is t·s·√(1 + 1/n), for very many the confidence interval.
    #[test]
    fn prediction_intervals_agree_with_the_formula() {
        let summary = Summary::of((1..=6).map(f64::from)).unwrap();
        let one = 2.570_582 * 3.5f64.sqrt() * (1.0 + 1.0 / 6.0f64).sqrt();
        assert!((summary.half_width_of_next_mean(1).unwrap() - one).abs() < 1e-5);
        let many = summary.half_width_of_next_mean(usize::MAX).unwrap();
        assert!((many - summary.half_width.unwrap()).abs() < 1e-9);
        assert_eq!(Summary::of([4.0]).unwrap().half_width_of_next_mean(3), None);
    }

    /// (α/2)^(1/n) is the lower end of n of n; the others as R's binom.test(k, n) has them.
    #[test]
    fn proportions_have_the_exact_interval() {
        let of = |hits, count| Proportion::of((0..count).map(|trial| trial < hits)).unwrap();
        for (hits, count, low, high) in [
            (10, 10, 0.025f64.powf(0.1), 1.0),
            (3, 3, 0.025f64.powf(1.0 / 3.0), 1.0),
            (0, 10, 0.0, 1.0 - 0.025f64.powf(0.1)),
            (8, 10, 0.443_904_5, 0.974_789_3),
            (5, 10, 0.187_086_0, 0.812_914_0),
        ] {
            let found = of(hits, count);
            assert_eq!((found.hits, found.count), (hits, count));
            assert!((found.low - low).abs() < 1e-6 && (found.high - high).abs() < 1e-6, "{found:?}");
        }
        assert_eq!(Proportion::of([]), None);
    }

    #[test]
    fn one_replication_has_no_interval_and_none_has_no_summary() {
        assert_eq!(Summary::of([4.0]).unwrap().half_width, None);
        assert_eq!(Summary::of([]), None);
    }
}
