"""The rules of FOCUS 1.2 (FinOps Open Cost and Usage Specification) that a dataset of ours can break, written down: which columns there must be, what may
be null when, which words are allowed, which numbers must agree. https://focus.finops.org/focus-specification/v1-2/"""

import re
from decimal import Decimal

MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
    "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"}
# Conditional and recommended ones of 1.2: what is neither of all these must begin with x_.
OTHERS = {
    "AvailabilityZone", "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus", "ChargeFrequency", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus", "CommitmentDiscountType",
    "CommitmentDiscountUnit", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "InvoiceId", "ListUnitPrice", "PricingCategory", "PricingCurrency",
    "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName",
    "SubAccountType", "Tags"}
NEVER_NULL = MANDATORY - {"ChargeClass", "ChargeDescription", "BillingAccountName", "PricingQuantity", "PricingUnit"}
COSTS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
DECIMALS = COSTS + ("PricingQuantity", "ConsumedQuantity", "ListUnitPrice", "ContractedUnitPrice")
TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
# Null in a tax; there in a usage or purchase that is no correction; free in the rest.
OF_SKU = ("PricingQuantity", "PricingUnit", "ListUnitPrice", "ContractedUnitPrice", "SkuId", "SkuPriceId", "PricingCategory")
WORDS = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools", "Multicloud", "Identity",
                        "Integration", "Internet of Things", "Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security",
                        "Storage", "Web", "Other"},
    "ServiceSubcategory": {"AI Platforms", "Bots", "Generative AI", "Machine Learning", "Natural Language Processing", "Other (AI and Machine Learning)"},
}
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CURRENCY = re.compile(r"[A-Z]{3}")


def number(row, column):
    return Decimal(row[column]) if row.get(column) else None


def columns_wrong(columns):
    yield from (f"no column {c}" for c in sorted(MANDATORY - set(columns)))
    yield from (f"{c} is of no one" for c in columns if c not in MANDATORY | OTHERS and not c.startswith("x_"))
    yield from (f"{c} comes twice" for c in set(columns) if columns.count(c) > 1)
    yield from (f"{c} is no Pascal case" for c in columns if not re.fullmatch(r"(x_)?[A-Z][A-Za-z0-9]*", c))


def formats_wrong(row):
    yield from (f"{c} is null" for c in NEVER_NULL if row[c] == "")
    yield from (f"{c} is {row[c]!r}" for c, words in WORDS.items() if c in row and row[c] not in words)
    yield from (f"{c} is no number: {row[c]!r}" for c in DECIMALS if row.get(c) and not NUMBER.fullmatch(row[c]))
    yield from (f"{c} is no time: {row[c]!r}" for c in TIMES if not TIME.fullmatch(row[c]))
    if not CURRENCY.fullmatch(row["BillingCurrency"]):
        yield "BillingCurrency is no ISO 4217 code"
    yield from (f"{c} is a placeholder" for c in row if row[c].lower() in ("null", "none", "n/a", "-", "not applicable"))


def nulls_wrong(row):
    category, correction = row["ChargeCategory"], row["ChargeClass"] == "Correction"
    charged = category in ("Usage", "Purchase") and not correction
    for c in OF_SKU:
        if c in row and (category == "Tax" and row[c] or charged and not row[c]):
            yield f"{c} of a {category} is {row[c]!r}"
    for value, unit in (("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit")):
        if value in row and bool(row[value]) != bool(row[unit]):
            yield f"{value} without {unit}, or the other way"
    if "ConsumedQuantity" in row and (category != "Usage" and row["ConsumedQuantity"] or charged and category == "Usage" and not row["ConsumedQuantity"]):
        yield f"ConsumedQuantity of a {category} is {row['ConsumedQuantity']!r}"
    if "ResourceType" in row and bool(row["ResourceType"]) != bool(row["ResourceId"] or row["ResourceName"]):
        yield "ResourceType without a resource, or the other way"
    if row.get("SkuPriceId") and not row.get("SkuId"):
        yield "SkuPriceId without SkuId"


def sums_wrong(row):
    if row["ChargeClass"] != "Correction" and number(row, "PricingQuantity") is not None:
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            if number(row, price) is not None and number(row, price) * number(row, "PricingQuantity") != number(row, cost):
                yield f"{price} x PricingQuantity is not {cost}"
    for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
        if number(row, price) is None and row["ChargeCategory"] != "Tax" and number(row, cost) != number(row, "BilledCost"):
            yield f"{cost} without a unit price is not BilledCost"
        if number(row, price) is not None and number(row, price) < 0:
            yield f"{price} is below zero"
    if row["ConsumedQuantity"] and number(row, "ConsumedQuantity") <= 0 and row["ChargeClass"] != "Correction":
        yield "ConsumedQuantity is not above zero"


def times_wrong(row):
    if not row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]:
        yield "the charge's period does not lie in the billing period"


def wrong(columns, rows):
    """What breaks the rules, as sentences; [] for a good dataset. Rows are dicts of texts."""
    found = list(columns_wrong(list(columns)))
    for i, row in enumerate(rows):
        for rule in (formats_wrong, nulls_wrong, sums_wrong, times_wrong):
            found += [f"row {i}: {w}" for w in rule(row)]
    prices = {}
    for row in rows:
        if row.get("SkuPriceId") and prices.setdefault(row["SkuPriceId"], row["SkuId"]) != row["SkuId"]:
            found.append(f"SkuPriceId {row['SkuPriceId']} has two SkuIds")
    return found
