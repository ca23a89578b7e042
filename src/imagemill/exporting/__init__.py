"""What an export is made of: the datasets, their pictures as they leave, the comparison, the mark it is known by."""
