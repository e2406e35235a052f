//! The formulas of the feature maps: what is known of a feature before its row's scale is.
//!
//! The same as `shaders/map/formulas.wgsl`; the table with the sources is in the documentation of
//! [`FeatureMap`].

use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::real::Real;

/// Features of a row before [`activate`](super::stabiliser::activate), of its elements x and its
/// projections y.
/// `z` is memory. A custom map, which computes in f64, allocates its own.
pub(super) fn pre_features<R: Real>(
    map: &FeatureMap,
    x: &[R],
    y: &[R],
    features: &mut [R],
    z: &mut Vec<R>,
) {
    z.clear();
    let d = x.len();
    let root = R::of((d as f64).sqrt());
    let width = features.len();
    match map {
        FeatureMap::Softmax => softmax(x, features),
        FeatureMap::T2r { .. } => map_each(y, features, |y| y.larger(R::from(0.0))),
        FeatureMap::Hedgehog => {
            let (positive, negative) = features.split_at_mut(d);
            softmax(y, positive);
            z.extend(y.iter().map(|y| -*y));
            softmax(z, negative);
        }
        FeatureMap::HedgehogJoint => {
            let two = R::from(2.0);
            z.extend(y.iter().map(|y| two * *y));
            z.extend(y.iter().map(|y| -(two * *y)));
            softmax(z, features);
        }
        FeatureMap::Product { .. } => {
            let (first, second) = y.split_at(width);
            for ((feature, a), b) in features.iter_mut().zip(first).zip(second) {
                *feature = *a * *b;
            }
        }
        FeatureMap::Favor { .. } | FeatureMap::FavorHyperbolic { .. } => {
            let half = sum(x.chunks(4).map(|vec4| sum(vec4.iter().map(|x| *x * *x))))
                / (R::from(2.0) * root);
            let fourth = R::of((d as f64).powf(-0.25));
            let (positive, negative) = features.split_at_mut(y.len());
            map_each(y, positive, |y| y * fourth - half);
            // Empty but for the hyperbolic form.
            map_each(y, negative, |y| -(y * fourth) - half);
        }
        FeatureMap::Fourier { .. } => {
            let norm = R::of((2.0 / width as f64).sqrt());
            let fourth = R::of((d as f64).powf(-0.25));
            let (cosines, sines) = features.split_at_mut(width / 2);
            map_each(y, cosines, |y| norm * (y * fourth).cos());
            map_each(y, sines, |y| norm * (y * fourth).sin());
        }
        FeatureMap::Taylor => {
            features[0] = R::from(1.0);
            let (linear, products) = features[1..].split_at_mut(d);
            let fourth = R::of((d as f64).powf(-0.25));
            map_each(x, linear, |x| x * fourth);
            let (squares, products) = products.split_at_mut(d);
            let square = R::of((2.0 * d as f64).powf(-0.5));
            map_each(x, squares, |x| x * x * square);
            let pairs = (0..d).flat_map(|i| (i + 1..d).map(move |j| (i, j)));
            let one = R::of((d as f64).powf(-0.5));
            for (feature, (i, j)) in products.iter_mut().zip(pairs) {
                *feature = x[i] * x[j] * one;
            }
        }
        FeatureMap::Dpfp { .. } => {
            let zero = R::from(0.0);
            z.extend(x.iter().map(|x| x.larger(zero)));
            z.extend(x.iter().map(|x| (-*x).larger(zero)));
            for (f, feature) in features.iter_mut().enumerate() {
                let (i, j) = (f % (2 * d), f / (2 * d) + 1);
                *feature = z[i] * z[(i + 2 * d - j) % (2 * d)];
            }
        }
        FeatureMap::Custom(map) => {
            let f64s = |x: &[R]| -> Vec<f64> { x.iter().map(|x| (*x).into()).collect() };
            let mut found = vec![0.0; width];
            map.map(&f64s(x), &f64s(y), &mut found);
            for (feature, found) in features.iter_mut().zip(found) {
                *feature = R::of(found);
            }
        }
        _ => features.copy_from_slice(x),
    }
}

fn map_each<R: Real>(from: &[R], to: &mut [R], map: impl Fn(R) -> R) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = map(*from);
    }
}

fn softmax<R: Real>(x: &[R], to: &mut [R]) {
    let row_max = largest(x);
    map_each(x, to, |x| (x - row_max).exp());
    let total = sum(to.iter().copied());
    to.iter_mut().for_each(|x| *x = *x / total);
}

fn largest<R: Real>(x: &[R]) -> R {
    x.iter().skip(1).fold(x[0], |most, x| most.larger(*x))
}

pub(super) fn sum<R: Real>(x: impl Iterator<Item = R>) -> R {
    x.fold(R::from(0.0), |sum, x| sum + x)
}
