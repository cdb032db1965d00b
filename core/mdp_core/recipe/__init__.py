"""Recipes: which plugins, with which settings."""

from mdp_core.recipe.layers import RecipeText, find_recipe, shipped_folder
from mdp_core.recipe.load import LoadedRecipe, load_recipe
from mdp_core.recipe.problems import InvalidRecipeError, Mark, Problem
from mdp_core.recipe.schema import EVALUATIONS, STAGE_KINDS, Catalogue, DataSection, ObserverSection, Recipe, StageSection
from mdp_core.recipe.show import show

__all__ = [
    "EVALUATIONS",
    "STAGE_KINDS",
    "Catalogue",
    "DataSection",
    "InvalidRecipeError",
    "LoadedRecipe",
    "Mark",
    "ObserverSection",
    "Problem",
    "Recipe",
    "RecipeText",
    "StageSection",
    "find_recipe",
    "load_recipe",
    "shipped_folder",
    "show",
]
