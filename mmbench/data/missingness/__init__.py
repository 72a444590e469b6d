"""Who goes missing: mechanisms that draw presence tables, the same ones on every machine.

Rates. `missing_rate` is the share of the naturally present (sample, modality) entries that a
mechanism hides, in expectation over the samples it is laid over; on complete data that is the
share of absent entries. Natural gaps always stay, are never counted as hidden, and a
sample always keeps one of the modalities that it really has. So samples with m_i modalities allow
a rate of at most sum(m_i - 1) / sum(m_i), which is (M - 1) / M on complete data.

Nesting. Every entry has one uniform number, whatever the rate, so what is absent at a low rate is
absent at a higher one, and curves over rates compare like with like.
"""
