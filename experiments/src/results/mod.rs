//! Tables of results, one row per cell, as CSV and as Parquet. No other module knows what stores them.

use anyhow::Context;
use polars::prelude::{
    Column, CsvWriter, DataFrame, IntoColumn, KeyValueMetadata, NamedFrom, ParquetCompression, ParquetWriter,
    SerWriter, Series,
};

/// A table: columns of equal length, in the order in which they were added.
#[derive(Clone, Debug)]
pub struct Table {
    name: &'static str,
    columns: Vec<Column>,
}

impl Table {
    /// An empty table; its files are called `name` with `.csv` and `.parquet`.
    pub fn new(name: &'static str) -> Table {
        Table { name, columns: Vec::new() }
    }

    /// Adds a column of text.
    pub fn text<T: Into<String>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Table {
        self.column(Series::new(name.into(), values.into_iter().map(Into::into).collect::<Vec<String>>()))
    }

    /// Adds a column of text, empty where there is none.
    pub fn text_if<T: Into<String>>(self, name: &str, values: impl IntoIterator<Item = Option<T>>) -> Table {
        let values: Vec<Option<String>> = values.into_iter().map(|value| value.map(Into::into)).collect();
        self.column(Series::new(name.into(), values))
    }

    /// Adds a column of whole numbers.
    pub fn count(self, name: &str, values: impl IntoIterator<Item = u64>) -> Table {
        self.column(Series::new(name.into(), values.into_iter().collect::<Vec<u64>>()))
    }

    /// Adds a column of whole numbers, empty where there is none.
    pub fn count_if(self, name: &str, values: impl IntoIterator<Item = Option<u64>>) -> Table {
        self.column(Series::new(name.into(), values.into_iter().collect::<Vec<Option<u64>>>()))
    }

    /// Adds a column of real numbers.
    pub fn real(self, name: &str, values: impl IntoIterator<Item = f64>) -> Table {
        self.column(Series::new(name.into(), values.into_iter().collect::<Vec<f64>>()))
    }

    /// Adds a column of real numbers, empty where there is none.
    pub fn real_if(self, name: &str, values: impl IntoIterator<Item = Option<f64>>) -> Table {
        self.column(Series::new(name.into(), values.into_iter().collect::<Vec<Option<f64>>>()))
    }

    /// The table's CSV and Parquet files, each with its name. Both hold the same rows, and the same table
    /// gives the same bytes. `provenance` goes into the Parquet file's metadata.
    ///
    /// # Errors
    /// If the columns differ in length or two have one name.
    pub fn files(&self, provenance: &[(String, String)]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut frame = self.frame().with_context(|| format!("cannot build the table {}", self.name))?;
        let mut csv = Vec::new();
        CsvWriter::new(&mut csv)
            .finish(&mut frame)
            .with_context(|| format!("cannot write {}.csv", self.name))?;
        let mut parquet = Vec::new();
        ParquetWriter::new(&mut parquet)
            .with_compression(ParquetCompression::Uncompressed)
            .with_key_value_metadata(Some(KeyValueMetadata::from_static(provenance.to_vec())))
            .set_parallel(false)
            .finish(&mut frame)
            .with_context(|| format!("cannot write {}.parquet", self.name))?;
        Ok(vec![(format!("{}.csv", self.name), csv), (format!("{}.parquet", self.name), parquet)])
    }

    fn frame(&self) -> anyhow::Result<DataFrame> {
        let height = self.columns.first().map_or(0, Column::len);
        Ok(DataFrame::new(height, self.columns.clone())?)
    }

    fn column(mut self, series: Series) -> Table {
        self.columns.push(series.into_column());
        self
    }
}
