"""Case studies: questions that the theory answers, as one page each. Joins rooms, as the files at the top of bench do."""
