"""Columns of the integer tables that a plan hands to the kernels."""

from __future__ import annotations

# Operations: what runs on the rows, in order. TARGET is where the target bits start in the table of bits. XMASK and
# ZMASK are bits of a row. RUN is the number of neighbouring rows that are treated alike where lanes are samples.
#
# Where lanes are amplitudes, LANE_* are bits of a lane; OUTER_ZMASK, CMASK and CVAL are bits of the index of the whole
# state. Rows are then counted as ``paired_row`` says, with FIRST, SECOND, FIX and COUNT.
#
# FREE is 1 where the entries of a matrix may change in any direction, 0 where it stays unitary whatever changes.
(
    KIND,
    FORM,
    WIDTH,
    TARGET,
    CMASK,
    CVAL,
    XMASK,
    ZMASK,
    NUM_Y,
    RUN,
    PARAM,
    COTANGENT,
    OUTER_ZMASK,
    LANE_XMASK,
    LANE_ZMASK,
    LANE_CMASK,
    LANE_CVAL,
    FIRST,
    SECOND,
    FIX,
    COUNT,
    FREE,
) = range(22)
OP_COLUMNS = 22

# Values of KIND.
U2, FLIP, PAULI, DIAGONAL, DENSE = range(5)

# Values of FORM: coefficients shared by all samples, or of each sample.
SHARED, LANES = range(2)

# Compositions: how the coefficients of an operation come from angles, one row an operation with angles.
COMP_TYPE, COMP_FORM, COMP_FIRST, COMP_LAST, COMP_PARAM, COMP_COTANGENT, COMP_SIZE, COMP_OP = range(8)
COMP_COLUMNS = 8

# Values of COMP_TYPE: a product of 2x2 factors (only its diagonal for PRODUCT_DIAGONAL), a sum over a spectrum with
# COMP_SIZE entries in each term, or the cosine and sine of a Pauli rotation.
PRODUCT, PRODUCT_DIAGONAL, SPECTRUM, ROTATION = range(4)

# Factors sum_m exp(i lambda_m theta) A_m: which angle, and from FACTOR_CONSTANTS on the FACTOR_TERMS eigenvalues and
# then the entries of each A_m.
FACTOR_INDEX, FACTOR_BATCHED, FACTOR_CONSTANTS, FACTOR_TERMS = range(4)
FACTOR_COLUMNS = 4
