"""Columns of the integer tables that a plan hands to the kernels."""

from __future__ import annotations

# Operations: what runs on the rows, in order.
KIND, FORM, WIDTH, TARGET, CMASK, CVAL, XMASK, ZMASK, NUM_Y, PARAM, COTANGENT = range(11)
OP_COLUMNS = 11

# Values of KIND.
U2, FLIP, PAULI, DIAGONAL, DENSE = range(5)

# Values of FORM: coefficients shared by all samples, or of each sample.
SHARED, LANES = range(2)

# Compositions: how the coefficients of an operation come from angles (COMP_*), one row an operation with angles.
COMP_TYPE, COMP_FORM, COMP_FIRST, COMP_LAST, COMP_PARAM, COMP_COTANGENT, COMP_SIZE, COMP_OP = range(8)
COMP_COLUMNS = 8

# Values of COMP_TYPE: a product of 2x2 factors (only its diagonal for PRODUCT_DIAGONAL), a sum over a spectrum of
# COMP_SIZE entries, or the cosine and sine of a Pauli rotation.
PRODUCT, PRODUCT_DIAGONAL, SPECTRUM, ROTATION = range(4)

# Factors: exp(i lambda_m theta) A_m summed over m; the constants are COMP_SIZE-independent: FACTOR_TERMS eigenvalues,
# then the entries of each A_m, from FACTOR_CONSTANTS on.
FACTOR_INDEX, FACTOR_BATCHED, FACTOR_CONSTANTS, FACTOR_TERMS = range(4)
FACTOR_COLUMNS = 4
